"""The README's option tables, made from the commands:  python tests/readme_options.py"""

from __future__ import annotations

from pathlib import Path

import click

from mzsr_cli.cli.main import COMMANDS, main

README = Path(__file__).resolve().parents[1] / "README.md"


def table(name: str) -> str:
    """Markdown table of a command's options."""
    command = main.get_command(click.Context(main), name)
    assert command is not None
    rows = ["| option | default | meaning |", "|---|---|---|"]
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            rows.append(row(parameter))
    return "\n".join(rows)


def row(option: click.Option) -> str:
    """One option: its names and values, its default, its help."""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    if not option.is_flag:
        value = option.make_metavar(click.Context(main)).replace("|", "\\|")
        names += f" {value}"
    help_text = (option.help or "").replace("|", "\\|")
    default = "" if option.is_flag or option.default in (None, ()) else str(option.default)
    if "Sentinel" in default or "UNSET" in default:
        default = ""
    return f"| {names} | {default} | {help_text} |"


def marked(name: str, text: str) -> tuple[int, int]:
    """Where the README holds the table of a command."""
    begin = text.index(f"<!-- options {name} -->\n") + len(f"<!-- options {name} -->\n")
    return begin, text.index(f"\n<!-- end {name} -->", begin)


def update() -> None:
    """Write all tables into the README."""
    text = README.read_text(encoding="utf-8")
    for name in COMMANDS:
        begin, end = marked(name, text)
        text = text[:begin] + table(name) + text[end:]
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    update()
