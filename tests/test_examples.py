"""The shell scripts of examples/ that people copy, each on a tiny cube; means of weights."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cube_files import digest
from dask_cluster import ROOT, environment, session_of, until
from small_networks import shaken
from upscale_files import field, names, run, save

from mzsr_cli.learning.weights import load_weights, save_weights
from mzsr_cli.settings import NetworkSettings

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


def test_averages_of_weights(tmp_path: Path) -> None:
    """Name by name; weights that facts do not modulate count as modulated by nothing, and step
    sizes that none has are like the others. The last file says what the mean is."""
    plain = NetworkSettings(backbone="strided", depth=6, width=5)
    told = replace(plain, modulated=True)
    files = {}
    for seed, (name, settings) in enumerate((("plain", plain), ("told", told)), 1):
        network = shaken(settings, seed)
        files[name] = tmp_path / f"{name}.safetensors"
        parameters = {n: p.detach() for n, p in network.named_parameters()}
        rates = {n: torch.tensor([0.04]) for n in parameters} if name == "plain" else {}
        save_weights(files[name], parameters, rates, settings, {})
    averaging = ROOT / "examples" / "average_weights.py"
    mean = tmp_path / "mean.safetensors"

    def average(*names: str) -> int:
        command = [sys.executable, str(averaging), *(str(files[n]) for n in names), "-o", str(mean)]
        return subprocess.run(command, check=False, capture_output=True).returncode

    assert average("plain", "told") == 0
    one, other, found = (load_weights(path) for path in (files["plain"], files["told"], mean))
    assert found.settings == told
    for name, p in found.parameters().items():
        half = other.parameters()[name] / 2
        torch.testing.assert_close(p, half + one.parameters().get(name, 0 * half) / 2)
    assert set(found.rates) == set(found.parameters())
    assert all(float(rate) == pytest.approx(0.04) for rate in found.rates.values())
    mean.unlink()
    assert average("told", "plain") != 0 and not mean.exists()
