"""``python -m mzsr_cli``: the ``mzsr`` command, in the form that torchrun starts."""

from __future__ import annotations

from mzsr_cli.cli.main import run

if __name__ == "__main__":
    run()
