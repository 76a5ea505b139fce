"""The shell scripts of examples/ that people copy, each on a tiny cube."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from cube_files import digest
from dask_cluster import ROOT, environment, session_of, until
from upscale_files import field, names, run, save

HOW = ("--scale", "2", "--method", "wiener")
SHAPE = (17, 13, 5)


def script(name: str, *arguments: object, **variables: str) -> int:
    """Exit code of a script of examples/; it leaves no process behind."""
    tools = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    process = subprocess.Popen(
        ["bash", str(ROOT / "examples" / name), *map(str, arguments)],
        env=environment(PATH=tools, **variables), start_new_session=True,
    )  # fmt: skip
    code = process.wait(timeout=120)
    assert until(lambda: not session_of(process.pid), 20)
    return code


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """The result of one run on in/c.npy."""
    (tmp_path / "in").mkdir()
    source = save(tmp_path / "in" / "c.npy", field(SHAPE))
    assert run("upscale", source, *HOW, "-q", "-o", tmp_path / "whole.npy") == 0
    return tmp_path / "whole.npy"


def test_folder_loop(tmp_path: Path, whole: Path) -> None:
    """A bad cube fails alone; a second run goes on with what is there."""
    save(tmp_path / "in" / "d.tif", field(SHAPE, "uint8"))
    (tmp_path / "in" / "bad.npy").write_bytes(b"no cube")
    assert script("folder_loop.sh", tmp_path / "in", tmp_path / "out", *HOW, JOBS="2") == 123
    wanted = ["c_x2.npy", "c_x2.npy.json", "d_x2.tif", "d_x2.tif.json"]
    assert names(tmp_path / "out") == wanted
    assert digest(tmp_path / "out" / "c_x2.npy") == digest(whole)
    (tmp_path / "in" / "bad.npy").unlink()
    assert script("folder_loop.sh", tmp_path / "in", tmp_path / "out", *HOW) == 0
    assert script("folder_loop.sh", tmp_path / "out" / "none", tmp_path / "out", *HOW) == 3


def test_slurm_array(tmp_path: Path, whole: Path) -> None:
    source, target = tmp_path / "in" / "c.npy", tmp_path / "c_x2.npy"
    assert script("slurm_array.sh", source, target, *HOW) == 1
    for task in "10":
        variables = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
        assert script("slurm_array.sh", source, target, *HOW, **variables) == 0
    assert run("merge", f"{target}.parts/*.npy", "-o", target) == 0
    assert digest(target) == digest(whole)


def test_dask_cluster(tmp_path: Path, whole: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    target = tmp_path / "c_x2.npy"
    options = (tmp_path / "in" / "c.npy", *HOW, "-o", target)
    assert script("dask_cluster.sh", *options, PORT=port) == 0
    assert digest(target) == digest(whole)
