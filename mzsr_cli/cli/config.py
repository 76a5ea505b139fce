"""``--config run.toml``: defaults of the commands' options, below line and environment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click


def _defaults(file: str, name: str, table: dict[str, Any]) -> dict[str, Any]:
    """The options of the table [``name``] by click's names, as text. Raises BadParameter for a
    table that is no command, or a key that is no option of it."""
    from mzsr_cli.cli.main import COMMANDS, main

    if name not in COMMANDS:
        raise click.BadParameter(f"{file}: [{name}] is no command. Use {', '.join(COMMANDS)}.")
    command = main.get_command(click.Context(main), name)
    known = {p.name: p for p in command.params} if command else {}
    found = {}
    for key, value in table.items():
        parameter = known.get(key.replace("-", "_"))
        if parameter is None:
            raise click.BadParameter(
                f"{file}: [{name}] {key}: no such option. `mzsr {name} --help` lists them."
            )
        found[parameter.name or key] = _typed(value, parameter)
    return found


def _typed(value: Any, parameter: click.Parameter) -> Any:
    """What one would type on the line: numbers and booleans as text, so that values of a wrong type
    are refused as they are there; one value of an option that may be repeated as a list."""
    many = parameter.nargs == -1 or parameter.multiple
    if isinstance(value, list):
        return [_text(item) for item in value]
    return [_text(value)] if many else _text(value)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def load_config(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Put the file's tables into click's default map. Raises BadParameter for a broken file."""
    if value is None:
        return
    try:
        tables = tomllib.loads(Path(value).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value}: {error}") from error
    defaults = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise click.BadParameter(
                f"{value}: {name!r} stands outside a table. Write it under [upscale] or another "
                "command's name."
            )
        defaults[name] = _defaults(value, name, table)
    ctx.default_map = defaults
