"""learning.ranks: two CPU ranks train as one process does with the same batch."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranks_worker import COUNT, STRUCK_AT, variables, watched
from scipy import ndimage
from torch import distributed

from mzsr_cli.cli.main import exit_code
from mzsr_cli.errors import DeviceError, InputError
from mzsr_cli.learning import networks
from mzsr_cli.learning.ranks import ALONE, Ranks, joined
from mzsr_cli.learning.weights import load_weights, save_weights
from mzsr_cli.settings import NetworkSettings

ROOT = Path(__file__).resolve().parents[1]
NETWORK = NetworkSettings(backbone="strided", depth=4, width=10)
ROUNDING = 1e-5
"""Largest deviation of a figure, or of a tensor in units of its largest value."""
PATIENCE = 200
"""Seconds after which ranks that hang are ended."""
LIKE_ONE = {
    "pretrain-muon": ("pretrain", "muon", 3),
    "pretrain-adam": ("pretrain", "adam", 4),
    "meta-train-muon": ("meta-train", "muon", 3),
    "meta-train-adam": ("meta-train", "adam", 3),
}
"""Trainings that are run by one process too: command, optimizer, batch."""


@dataclass
class Outcome:
    """Where the ranks worked, what each said of each case, and what they wrote on stderr."""

    folder: Path
    results: list[dict[str, Any]]
    said: list[str]

    def codes(self, name: str) -> list[int]:
        """Exit codes of a case."""
        return [result[name]["code"] for result in self.results]

    def path(self, name: str, suffix: str = ".safetensors") -> Path:
        """A file that a case left."""
        return self.folder / (name + suffix)


def cube(folder: Path, slices: int = 13) -> Path:
    """Slices of 37 x 31 pixels; of thirteen one is held out, and of three."""
    noise = np.random.default_rng(3).standard_normal((37, 31, slices))
    path = folder / "cube.npy"
    np.save(path, ndimage.gaussian_filter(noise, (1.0, 1.3, 0)).astype(np.float32))
    return path


def training(folder: Path, kind: str, output: str, *more: str) -> list[str]:
    """A command line that trains a tiny network on the cube."""
    return [kind, str(folder / "cube.npy"), "-o", str(folder / f"{output}.safetensors"),
            "--init", str(folder / "init.safetensors"), "--iterations", "12", "--patch", "16",
            "--learning-rate", "0.01", "--precision", "fp32", "--device", "cpu",
            "--degradations", "random", "--batch", "3", *more]  # fmt: skip


def cases(folder: Path) -> list[dict[str, Any]]:
    """What the ranks are to do."""
    found: list[dict[str, Any]] = [{"name": "sums"}]
    for name, (kind, optimizer, batch) in LIKE_ONE.items():
        more = ("--optimizer", optimizer, "--batch", str(batch))
        found.append({"name": name, "arguments": training(folder, kind, name, *more)})
    for name, strike in (("struck", "signal"), ("failed", "fail")):
        found.append(
            {"name": name, "arguments": training(folder, "meta-train", name), "strike": strike}
        )
    again = training(folder, "meta-train", "struck", "--resume")
    found.append({"name": "resumed", "arguments": again})
    timed = training(folder, "pretrain", "timed", "--max-time", "0.4", "--iterations", "100000")
    found.append({"name": "timed", "arguments": timed})
    other = training(folder, "pretrain", "other")
    found.append({"name": "other", "arguments": other, "second": ["--seed", "1"]})
    taken = training(folder, "pretrain", "pretrain-muon")
    found.append({"name": "taken", "arguments": taken})
    return [{**case, "port": port} for case, port in zip(found, ports(len(found)), strict=True)]


def ports(count: int) -> list[int]:
    """Free ports of this machine."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    found = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return found


def environment() -> dict[str, str]:
    """For processes that import this package from the checkout and talk over the loopback."""
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    own = {"PYTHONPATH": path, "GLOO_SOCKET_IFNAME": loopback, "OMP_NUM_THREADS": "1"}
    return {**os.environ, **own}


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Two ranks have done all cases."""
    folder = tmp_path_factory.mktemp("ranks")
    cube(folder)
    network = networks.build(NETWORK, seed=2)
    save_weights(folder / "init.safetensors", dict(network.named_parameters()), {}, NETWORK, {})
    (folder / "cases.json").write_text(json.dumps(cases(folder)), encoding="utf-8")
    started = []
    for rank in range(COUNT):
        line = [sys.executable, str(ROOT / "tests" / "ranks_worker.py"), str(rank)]
        line += [str(folder / "cases.json"), str(folder / f"results{rank}.json")]
        with (folder / f"said{rank}").open("w") as said:
            started.append(subprocess.Popen(line, env=environment(), stderr=said))
    try:
        for process in started:
            process.wait(PATIENCE)
    finally:
        for process in started:
            process.kill()
            process.wait()
    said = [(folder / f"said{rank}").read_text(encoding="utf-8") for rank in range(COUNT)]
    results = [folder / f"results{rank}.json" for rank in range(COUNT)]
    assert all(path.is_file() for path in results), "\n".join(said)
    return Outcome(folder, [json.loads(p.read_text(encoding="utf-8")) for p in results], said)


def tensors(path: Path) -> dict[str, torch.Tensor]:
    """Parameters and step sizes of a weights file."""
    loaded = load_weights(path)
    return {**loaded.parameters(), **{f"rate.{n}": r for n, r in loaded.rates.items()}}


def assert_close(one: Path, other: Path, tolerance: float) -> None:
    """Weights that agree; a tolerance of 0 means bit for bit."""
    mine, theirs = tensors(one), tensors(other)
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        apart = float((tensor - theirs[name]).abs().max())
        assert apart <= tolerance * float(tensor.abs().max()), name


def curve(path: Path) -> list[dict[str, float]]:
    """Figures of a log's lines, but for those on the data."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["kind"] != "data"]
    return [{k: v for k, v in line.items() if k not in ("kind", "elapsed")} for line in lines]


# -- the same as one process ------------------------------------------------------------------


@pytest.mark.parametrize("name", LIKE_ONE)
def test_two_ranks_are_one_process(name: str, outcome: Outcome, tmp_path: Path) -> None:
    """Loss curve and weights, of batches that two divides and does not; both ranks end with the
    same bits."""
    assert outcome.codes(name) == [0, 0]
    first, second = (result[name]["leaves"] for result in outcome.results)
    assert first == second
    kind, optimizer, batch = LIKE_ONE[name]
    for file in ("cube.npy", "init.safetensors"):
        shutil.copy(outcome.folder / file, tmp_path)
    more = ("--optimizer", optimizer, "--batch", str(batch), "-q")
    with watched([]):
        assert exit_code(training(tmp_path, kind, name, *more)) == 0
    alone, together = tmp_path / f"{name}.jsonl", outcome.path(name, ".jsonl")
    assert len(curve(alone)) == len(curve(together)) == 4
    for mine, theirs in zip(curve(alone), curve(together), strict=True):
        assert mine == pytest.approx(theirs, rel=ROUNDING)
    assert_close(alone.with_suffix(".safetensors"), outcome.path(name), ROUNDING)
    facts = [
        load_weights(p).facts["processes"]
        for p in (outcome.path(name), tmp_path / f"{name}.safetensors")
    ]
    assert facts == [COUNT, 1]


def test_training_moves_the_weights(outcome: Outcome) -> None:
    """So that agreement says something."""
    before, after = tensors(outcome.path("init")), tensors(outcome.path("meta-train-muon"))
    for name, tensor in before.items():
        assert float((tensor - after[name]).abs().max()) > 100 * ROUNDING * float(
            tensor.abs().max()
        )


def test_sums(outcome: Outcome) -> None:
    for rank, result in enumerate(outcome.results):
        found = result["sums"]
        assert found["gradients"] == [[3.0] * 3, [5.0] * 3, None]
        assert found["last"] and found["format"]
        assert found["figures"] == {"a": pytest.approx(1.2, rel=1e-15), "b": 2.0}
        assert found["first"] == 0.1
        assert found["agree"] == [True, False]
        assert found["share"] == [[0, 2, 4], [1, 3]][rank]


def test_alone_nothing_happens() -> None:
    leaf = torch.zeros(2, requires_grad=True)
    leaf.grad = gradient = torch.ones(2)
    ALONE.sum_gradients([leaf])
    assert leaf.grad is gradient
    figures = {"loss": 0.1}
    assert ALONE.sum_figures(figures) is figures
    assert list(ALONE.share(3)) == [0, 1, 2]
    assert ALONE.from_first(0.3) == 0.3 and ALONE.agree(b"any") and ALONE.first
    with ALONE.stopping() as stop:
        stop()


# -- endings ----------------------------------------------------------------------------------


def test_signal_on_one_rank_stops_both_and_is_resumed(outcome: Outcome) -> None:
    """SIGTERM on the second: both end after the same update, the first saves; the resumed run
    ends with the bits of the unbroken one."""
    assert outcome.codes("struck") == [130, 130]
    first, second = (result["struck"]["leaves"] for result in outcome.results)
    assert first == second
    assert outcome.codes("resumed") == [0, 0]
    assert_close(outcome.path("struck"), outcome.path("meta-train-muon"), 0)


def test_failure_on_one_rank_ends_the_other(outcome: Outcome) -> None:
    """The first says that the other has stopped and saves what was whole; one process alone can
    resume it."""
    assert outcome.codes("failed") == [4, 3]
    assert "another rank has stopped" in outcome.said[0]
    assert load_weights(outcome.path("failed")).facts["iterations"] == STRUCK_AT
    assert exit_code(training(outcome.folder, "meta-train", "failed", "--resume", "-q")) == 0
    assert_close(outcome.path("failed"), outcome.path("meta-train-muon"), ROUNDING)


def test_max_time_ends_both(outcome: Outcome) -> None:
    assert outcome.codes("timed") == [0, 0]
    last = curve(outcome.path("timed", ".jsonl"))[-1]
    assert last["iteration"] > STRUCK_AT
    first, second = (result["timed"]["leaves"] for result in outcome.results)
    assert first == second


def test_unlike_ranks_are_refused(outcome: Outcome) -> None:
    assert outcome.codes("other") == [3, 3]
    assert all("do not start alike" in said for said in outcome.said)
    assert not outcome.path("other").exists()


def test_existing_output_is_refused_by_the_first(outcome: Outcome) -> None:
    assert outcome.codes("taken")[0] == 2
    assert outcome.codes("taken")[1] != 0
    assert "--overwrite" in outcome.said[0] and "--overwrite" not in outcome.said[1]


def test_the_first_alone_speaks(outcome: Outcome) -> None:
    assert "validation 12" in outcome.said[0]
    assert "validation" not in outcome.said[1] and "train " not in outcome.said[1]


# -- refused before ranks meet -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "change", "says"),
    [
        (["--batch", "1"], {}, "--batch 2"),
        (["--device", "cuda:1"], {}, "--device cuda."),
        ([], {"WORLD_SIZE": "two"}, "torchrun"),
    ],
)
def test_refusals(
    more: list[str], change: dict[str, str], says: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    for name, value in {**variables(0, 1), **change}.items():
        monkeypatch.setenv(name, value)
    assert exit_code(training(tmp_path, "pretrain", "w", *more)) == 2
    assert says in capsys.readouterr().err
    assert not (tmp_path / "w.safetensors").exists()


def test_one_process_of_torchrun_is_alone() -> None:
    with joined({**variables(0, 1), "WORLD_SIZE": "1"}, "cpu", 1) as ranks:
        assert ranks == ALONE
    with joined({"RANK": "3", "WORLD_SIZE": "7"}, "cpu", 1) as ranks:
        assert ranks == ALONE


# -- GPUs, as far as they can be tried without any ----------------------------------------------


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch believes that there are two; the list tells what was asked of torch.distributed."""
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setattr(
        distributed, "init_process_group", lambda *a, **k: asked.append((a, k["device_id"]))
    )
    monkeypatch.setattr(distributed, "destroy_process_group", lambda: asked.append("destroyed"))
    return asked


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_rank_has_its_gpu(name: str, two_gpus: list[Any]) -> None:
    own = torch.device("cuda", 1)
    with joined({**variables(3, 1), "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, name, 4) as ranks:
        assert ranks == Ranks(3, 4, own)
        assert two_gpus == [own, (("nccl",), own)]
    assert two_gpus[-1] == "destroyed"


def test_a_rank_without_a_gpu_is_refused(two_gpus: list[Any]) -> None:
    place = {**variables(2, 1), "WORLD_SIZE": "3"}
    with pytest.raises(DeviceError, match="--nproc-per-node 2"), joined(place, "auto", 3):
        pass
    assert two_gpus == []


def test_a_broken_group_on_gpus_is_not_waited_for(two_gpus: list[Any]) -> None:
    with pytest.raises(InputError), joined(variables(0, 1), "cuda", 2):
        raise InputError("broken")
    assert "destroyed" not in two_gpus


# -- torchrun ----------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_example_script(tmp_path: Path) -> None:
    """examples/torchrun_training.sh, with two processes."""
    own = {"PYTHON": sys.executable, "N": "2", "OUT": str(tmp_path), "TIME": "0.2"}
    own |= {"OPTIONS": "--patch 16 --precision fp32 --device cpu --batch 2"}
    line = ["bash", str(ROOT / "examples" / "torchrun_training.sh"), str(cube(tmp_path, 3))]
    done = subprocess.run(
        line, env={**environment(), **own}, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    for name in ("pretrained", "mine"):
        assert load_weights(tmp_path / f"{name}.safetensors").facts["processes"] == 2
