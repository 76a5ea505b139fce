"""``--config run.toml``: defaults of the commands' options, below line and environment."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import click


def _check_keys(file: str, name: str, table: dict[str, Any]) -> None:
    """Raise BadParameter for a table that is no command, or a key that is no option of it."""
    from mzsr_cli.cli.main import COMMANDS, main

    if name not in COMMANDS:
        raise click.BadParameter(f"{file}: [{name}] is no command. Use {', '.join(COMMANDS)}.")
    command = main.get_command(click.Context(main), name)
    known = {p.name: p.opts[-1].lstrip("-") for p in command.params} if command else {}
    for key in table:
        if key.replace("-", "_") not in {*known, *(o.replace("-", "_") for o in known.values())}:
            raise click.BadParameter(
                f"{file}: [{name}] {key}: no such option. `mzsr {name} --help` lists them."
            )


def load_config(ctx: click.Context, _param: click.Parameter, value: str | None) -> None:
    """Put the file's tables into click's default map. Raises BadParameter for a broken file."""
    if value is None:
        return
    try:
        tables = tomllib.loads(Path(value).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{value}: {error}") from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise click.BadParameter(
                f"{value}: {name!r} stands outside a table. Write it under [upscale] or another "
                "command's name."
            )
        _check_keys(value, name, table)
    ctx.default_map = {
        command: {key.replace("-", "_"): option for key, option in table.items()}
        for command, table in tables.items()
    }
