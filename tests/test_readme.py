"""The README says what the commands say, and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from readme_options import README, marked, table

from mzsr_cli.cli.main import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_option_tables_match_help(name: str) -> None:
    text = README.read_text(encoding="utf-8")
    begin, end = marked(name, text)
    assert text[begin:end] == table(name), "run: python tests/readme_options.py"


def test_files_that_the_readme_names_exist() -> None:
    text = README.read_text(encoding="utf-8")
    named = re.findall(r"(?:bash|python) ((?:examples|tests)/[\w./]+)", text)
    named += re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert named
    for name in named:
        assert (README.parent / name).is_file(), name


def test_the_two_commands_are_there() -> None:
    text = README.read_text(encoding="utf-8")
    assert "bash examples/quickstart.sh" in text
    assert "bash tests/run.sh" in text
    assert Path(README.parent / ".ci" / "run").is_file()
