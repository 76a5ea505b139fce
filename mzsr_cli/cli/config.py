"""``--config run.toml``: defaults of the commands' options, below line and environment."""

from __future__ import annotations

import tomllib
from pathlib import Path

import click


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
    ctx.default_map = {
        command: {key.replace("-", "_"): option for key, option in table.items()}
        for command, table in tables.items()
    }
