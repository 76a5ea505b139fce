"""The ``mzsr`` command: commands are imported when called, errors become exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

import click

from mzsr_cli import __version__
from mzsr_cli.cli import show
from mzsr_cli.cli.config import load_config
from mzsr_cli.errors import MzsrError
from mzsr_cli.pipeline.allocator import keep_freed_memory

COMMANDS = {
    "upscale": "Super-resolve cubes.",
    "merge": "Join results of --slices into one cube.",
    "degrade": "Make an LR cube from an HR one, with a known degradation.",
    "evaluate": "Compare an SR cube with its HR truth.",
    "benchmark": "Compare methods on known degradations, in one table.",
    "info": "Describe a cube, a weights file, or this machine.",
    "pretrain": "Train a network on HR/LR pairs (Algorithm 1, lines 1-7).",
    "meta-train": "Meta-train over degradations (Algorithm 1, lines 8-17).",
}


RESUMABLE = ("upscale", "benchmark", "pretrain", "meta-train")
"""Commands with an option --resume."""


class LazyGroup(click.Group):
    """Imports a command's module only when that command runs, so that --help stays quick."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the commands, in the order of the docs."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command ``cmd_name``, or None."""
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mzsr_cli.cli.{cmd_name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=LazyGroup,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "MZSR",
        "show_default": True,
        "max_content_width": 100,
    },
)
@click.version_option(__version__, prog_name="mzsr")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False),
    callback=load_config,
    is_eager=True,
    expose_value=False,
    help="TOML file with options, one table a command ([upscale], ...).",
)
def main() -> None:
    """Zero-shot super-resolution of channel data (3-D arrays), slice by slice.

    Options may also come from MZSR_COMMAND_OPTION environment variables and from --config;
    the command line wins over the environment, the environment over the file.
    """


def run(arguments: list[str] | None = None) -> None:
    """Entry point: runs ``main`` and exits with the code that belongs to what happened.

    A process of torchrun ends at once: threads that torch still has of the process group now and
    then abort an interpreter that takes itself down, when everything has been written.
    """
    code = exit_code(arguments)
    _flush()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        os._exit(code)
    sys.exit(code)


def _flush() -> None:
    """What was printed goes out; a stream that cannot take it does not change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def exit_code(arguments: list[str] | None = None) -> int:
    """Run and return 0 done, 1 internal, 2 usage, 3 input, 4 resources, 5 some, 6 resume, 130."""
    keep_freed_memory()
    try:
        result: Any = main.main(args=arguments, prog_name="mzsr", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        show.error(f"interrupted{_way_on(sys.argv[1:] if arguments is None else arguments)}")
        return 130
    except click.ClickException as error:
        error.show(show.stderr())
        return error.exit_code
    except MzsrError as error:
        show.error(str(error))
        return error.exit_code
    except (MemoryError, RuntimeError) as error:
        if not (isinstance(error, MemoryError) or _is_out_of_memory(error)):
            raise
        show.error(
            "out of memory. Type a smaller --tile, --patch or --batch, or --slices to do fewer at "
            "a time."
        )
        return 4
    except OSError as error:
        show.error(show.refusal(error, "a file or stream"))
        return 4
    return result if isinstance(result, int) else 0


def _is_out_of_memory(error: BaseException) -> bool:
    """What torch says of a GPU's memory, too; torch is only asked where there is an error."""
    from mzsr_cli.learning.runtime import is_out_of_memory

    return is_out_of_memory(error)


def _way_on(arguments: list[str]) -> str:
    """What goes on with an interrupted command, if it can."""
    if next((word for word in arguments if word in COMMANDS), None) not in RESUMABLE:
        return ""
    return ". Type the same command with --resume to go on where it stopped."


if __name__ == "__main__":
    run()
