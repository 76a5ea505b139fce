"""``--workers`` and ``--scheduler``: the bytes of one process, whatever becomes of workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from cube_files import digest
from dask_cluster import Cluster, environment, session_of, until
from test_second_weights import cube as cube_for_both
from upscale_files import field, names, run, save, tiny_weights, upscale

from mzsr_cli.cubes.open import open_cube
from mzsr_cli.errors import DeviceError, ResourceError, UsageError, WeightsError
from mzsr_cli.pipeline import workers
from mzsr_cli.pipeline.plan import make_plan
from mzsr_cli.pipeline.solving import Job
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.pipeline.workers import OnDask, local_workers, scheduler_workers
from mzsr_cli.settings import (
    Adapting,
    AdaptSettings,
    Method,
    Normalize,
    Precision,
    UpscaleSettings,
    WorkerSettings,
    ZssrSettings,
)

SHAPE = (33, 29, 9)
S = SHAPE[2]
QUICK = WorkerSettings(connect=10, patience=2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Here as on the workers."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture(scope="module")
def pool(one_thread: None) -> Iterator[OnDask]:
    """Two workers, started once."""
    with local_workers(2) as executor:
        yield executor


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Cluster]]:
    """Starts a scheduler with two workers, and stops it in the end."""
    started: list[Cluster] = []

    def start(*options: str, **variables: str) -> Cluster:
        started.append(Cluster(tmp_path_factory.mktemp("dask"), *options, **variables))
        return started[-1]

    yield start
    for one in started:
        one.close()


def settings_of(weights: Path, **more: Any) -> UpscaleSettings:
    base = UpscaleSettings(
        scale=(2.0, 2.0), weights=str(weights), precision=Precision.FP32,
        adapt=AdaptSettings(steps=2),
    )  # fmt: skip
    return replace(base, **more)


class At:
    """Does something after some slices, and counts all."""

    def __init__(self, count: int, action: Callable[[], None]) -> None:
        self.count, self.action, self.calls = count, action, list[int]()

    def __call__(self, done: int, total: int, report: Any) -> None:
        self.calls.append(done)
        if done == self.count:
            self.action()


def interrupt() -> None:
    raise KeyboardInterrupt


CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "slice": ("c.npy", "complex64", {}),
    "cube": ("c_v73.mat", "float64", {"adapt": AdaptSettings(steps=2, mode=Adapting.CUBE)}),
    "integers": ("c.tif", "uint8", {"normalize": Normalize.CUBE, "slices": "1::2"}),
    "rounding": ("c.zarr", "uint16", {}),
    "wiener": ("c.h5", "float32", {"method": Method.WIENER}),
    "zssr": (
        "c.mat", "float32",
        {"method": Method.ZSSR, "zssr": ZssrSettings(iterations_max=3, self_ensemble=False)},
    ),
}  # fmt: skip


def test_second_weights_travel(tmp_path: Path, weights: Path, pool: OnDask) -> None:
    """A cube whose slices both shipped networks answer."""
    source = save(tmp_path / "c.npy", cube_for_both())
    settings = replace(settings_of(weights), weights=None)
    once = upscale_cube(source, tmp_path / "alone.npy", settings)
    answered = [report.get("weights") for report in once["slice_reports"]]
    assert set(answered) == {"images-x2", None}
    upscale_cube(source, tmp_path / "shared.npy", settings, executor=pool)
    assert digest(tmp_path / "shared.npy") == digest(tmp_path / "alone.npy")


@pytest.mark.parametrize("case", CASES)
def test_the_bytes_of_one_process(tmp_path: Path, weights: Path, pool: OnDask, case: str) -> None:
    name, dtype, more = CASES[case]
    source = save(tmp_path / name, field(SHAPE, dtype))
    settings = settings_of(weights, **more)
    alone, shared = (tmp_path / f"{who}{source.suffix}" for who in ("alone", "shared"))
    once = upscale_cube(source, alone, settings)
    ticks = At(-1, interrupt)
    record = upscale_cube(source, shared, settings, executor=pool, on_slice=ticks)
    assert digest(shared) == digest(alone)
    count = len(once["slice_reports"])
    assert ticks.calls == list(range(1, count + 1))
    own = {"output", "seconds", "slice_reports", "workers"}
    assert {k: v for k, v in record.items() if k not in own} == {
        k: v for k, v in once.items() if k not in own
    }
    assert record["workers"] == 2 and "workers" not in once
    for here, there in zip(once["slice_reports"], record["slice_reports"], strict=True):
        assert here | {"seconds": 0} == there | {"seconds": 0}


def test_tasks_in_flight_are_bounded(
    tmp_path: Path, weights: Path, pool: OnDask, monkeypatch: pytest.MonkeyPatch
) -> None:
    flown: list[int] = []
    launch = OnDask._launch

    def launching(self: OnDask, job: Any, name: str, todo: Any, flying: Any) -> None:
        launch(self, job, name, todo, flying)
        flown.append(len(flying))

    monkeypatch.setattr(OnDask, "_launch", launching)
    source = save(tmp_path / "c.npy", field((11, 13, 31)))
    settings = settings_of(weights, method=Method.WIENER)
    upscale_cube(source, tmp_path / "o.npy", settings, executor=pool)
    assert max(flown) == 2 * WorkerSettings().tasks


@pytest.mark.parametrize(
    ("left", "count", "side", "length"),
    [(1, 2, 64, 1), (31, 2, 64, 3), (32, 2, 64, 4), (500, 2, 64, 4), (500, 2, 1024, 2),
     (500, 2, 4096, 1), (3, 64, 64, 1)],
)  # fmt: skip
def test_lengths_of_runs(
    tmp_path: Path, weights: Path, left: int, count: int, side: int, length: int
) -> None:
    source = save(tmp_path / "c.npy", field((11, 13, 3)))
    with open_cube(source) as reader:
        plan = make_plan(reader.info, tmp_path / "o.npy", settings_of(weights))
    plan = replace(plan, shape=(side, side, left))
    assert OnDask(None, WorkerSettings(), 1)._length(plan, left, count) == length


def test_resumes_across_worker_counts(tmp_path: Path, weights: Path, pool: OnDask) -> None:
    source, settings = save(tmp_path / "c.npy", field(SHAPE)), settings_of(weights)
    upscale_cube(source, tmp_path / "whole.npy", settings)
    for first, second in ((pool, None), (None, pool)):
        target = tmp_path / "broken.npy"
        with pytest.raises(KeyboardInterrupt):
            upscale_cube(source, target, settings, executor=first, on_slice=At(2, interrupt))
        assert {"broken.npy.part", "broken.npy.journal"} <= set(names(tmp_path))
        ticks = At(-1, interrupt)
        upscale_cube(source, target, settings, executor=second, resume=True, on_slice=ticks)
        assert ticks.calls == list(range(1, S + 1))
        assert digest(target) == digest(tmp_path / "whole.npy")
        target.unlink()


def test_a_bad_slice_is_the_same_error(
    tmp_path: Path, weights: Path, pool: OnDask, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    cube = field(SHAPE)
    cube[3, 5, S - 2] = np.nan
    source = save(tmp_path / "c.npy", cube)
    monkeypatch.setattr(workers, "local_workers", lambda count: nullcontext(pool))
    said = []
    for more in ((), ("--workers", 2)):
        assert upscale(source, "--scale", 2, "--weights", weights, "-q", *more) == 3
        said.append(capfd.readouterr().err)
        assert names(tmp_path) == ["c.npy"]
    assert said[0] == said[1] and f"slice {S - 2}" in said[0]


def test_errors_of_workers_arrive_as_they_are(tmp_path: Path, weights: Path, pool: OnDask) -> None:
    """A worker that would compute on another device says so, and what to type."""
    source = save(tmp_path / "c.npy", field(SHAPE))
    with open_cube(source) as reader:
        plan = make_plan(reader.info, tmp_path / "o.npy", settings_of(weights, device="cpu"))
        job = Job(replace(plan, device=torch.device("cuda")), reader, None, frozenset())
        with pytest.raises(DeviceError, match="--device cpu"):
            list(pool.solve(job))


@pytest.mark.skipif(torch.cuda.is_available(), reason="about machines without a GPU")
def test_a_gpu_that_only_workers_might_have(
    tmp_path: Path,
    pool: OnDask,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With a scheduler it is the workers who say that there is none; here it need not be."""
    source = save(tmp_path / "c.npy", field(SHAPE))
    asked: list[str] = []

    def connected(address: str) -> Any:
        asked.append(address)
        return nullcontext(pool)

    monkeypatch.setattr(workers, "scheduler_workers", connected)
    wanted = ("--scale", 2, "-q", "--device", "cuda")
    assert upscale(source, *wanted) == 4 and asked == []
    assert upscale(source, *wanted, "--scheduler", "tcp://h:1") == 4 and asked == ["tcp://h:1"]
    assert "no CUDA device" in capfd.readouterr().err
    assert upscale(source, "--scale", 2, "--device", "gpu", "--scheduler", "tcp://h:1") == 2


def test_weights_that_change_during_a_run(tmp_path: Path, pool: OnDask) -> None:
    own = tiny_weights(tmp_path / "w.safetensors")
    source = save(tmp_path / "c.npy", field(SHAPE))
    with open_cube(source) as reader:
        plan = make_plan(reader.info, tmp_path / "o.npy", settings_of(own))
        tiny_weights(own, seed=2)
        with pytest.raises(WeightsError, match=r"w\.safetensors: has changed"):
            list(pool.solve(Job(plan, reader, None, frozenset())))
        packed = workers.Packed("w", plan.weights.digest if plan.weights else "", own.read_bytes())
    with pytest.raises(WeightsError, match="damaged"):
        packed.unpacked(torch.device("cpu"))


def described(*devices: str, fast: bool = True, mzsr: str | None = None) -> dict[str, Any]:
    """What workers say of themselves."""
    return {
        f"tcp://w:{i}": {
            "mzsr": mzsr or workers.__version__, "device": device, "fast_bf16": fast,
            "description": device,
        }
        for i, device in enumerate(devices)
    }  # fmt: skip


class Answers:
    """A client whose workers give fixed answers."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self.answers = answers

    status = "running"

    def run(self, *arguments: Any, **options: Any) -> dict[str, Any]:
        return self.answers


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("fast", [True, False])
def test_device_and_precision_are_those_of_the_workers(
    tmp_path: Path, weights: Path, device: str, fast: bool
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    settings = settings_of(weights, precision=Precision.AUTO)
    with open_cube(source) as reader:
        plan = make_plan(reader.info, tmp_path / "o.npy", settings)
    client: Any = Answers(described(device, device, fast=fast))
    executor = OnDask(client, WorkerSettings(), None)
    found = executor.adopted(plan)
    assert found.device.type == device
    assert found.precision is (Precision.BF16 if fast else Precision.FP32)
    assert executor.facts(found) == {"device_used": device, "workers": 2}


@pytest.mark.parametrize(
    ("answers", "error", "named"),
    [
        (described("cpu", "cuda"), DeviceError, "--device cpu"),
        (described("cpu", mzsr="0.0.9"), UsageError, r"0\.0\.9"),
        ({"tcp://w:0": ImportError("no mzsr_cli")}, ResourceError, "pip install"),
        ({"tcp://w:0": DeviceError("no such")}, DeviceError, "no such"),
        ({"tcp://w:0": OSError("gone")}, ResourceError, "dask worker"),
        ({}, ResourceError, "dask worker"),
    ],
)
def test_workers_that_do_not_fit(
    tmp_path: Path, weights: Path, answers: dict[str, Any], error: type[Exception], named: str
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    with open_cube(source) as reader:
        plan = make_plan(reader.info, tmp_path / "o.npy", settings_of(weights))
    client: Any = Answers(answers)
    with pytest.raises(error, match=named):
        OnDask(client, WorkerSettings(), None).adopted(plan)


def test_threads_of_local_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert workers._threads_each(7) == torch.get_num_threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(11)))
    assert [workers._threads_each(n) for n in (1, 3, 11, 20)] == [11, 3, 1, 1]


def test_environment_of_local_workers(pool: OnDask) -> None:
    """One thread, and dask's setting of malloc left out, with which slices take 1.5 times as
    long."""
    for found in pool.client.run(lambda: dict(os.environ)).values():
        assert found["OMP_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == "1"
        assert "MALLOC_TRIM_THRESHOLD_" not in found


# -- requests that make no sense ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        (("--workers", 2, "--adapt", "warm"), 2, "--adapt warm"),
        (("--scheduler", "tcp://127.0.0.1:1", "--adapt", "warm"), 2, "--adapt warm"),
        (("--workers", 2, "--scheduler", "tcp://127.0.0.1:1"), 2, "not both"),
        (("--workers", 0), 2, "0"),
        (("--scheduler", "somewhere"), 2, "tcp://host:8786"),
    ],
)
def test_refused(
    tmp_path: Path, weights: Path, options: Any, code: int, named: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = save(tmp_path / "c.npy", field(SHAPE))
    assert upscale(source, "--scale", 2, "--weights", weights, *options) == code
    assert named in capfd.readouterr().err
    assert names(tmp_path) == ["c.npy"]


@pytest.mark.parametrize("option", [("--workers", 2), ("--scheduler", "tcp://127.0.0.1:1")])
def test_without_the_extra(
    tmp_path: Path, option: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    source = save(tmp_path / "c.npy", field(SHAPE))
    assert run("upscale", source, "--scale", 2, *option) == 2
    err = capfd.readouterr().err
    assert (
        f"{option[0]}: needs dask.distributed" in err and "pip install 'mzsr[distributed]'" in err
    )


def test_dry_run_starts_no_workers(tmp_path: Path, weights: Path) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    assert upscale(source, "--scale", 2, "--weights", weights, "--workers", 2, "--dry-run") == 0


def test_nobody_there() -> None:
    settings = WorkerSettings(connect=0.5, patience=0.5)
    with (
        pytest.raises(ResourceError, match="dask scheduler"),
        scheduler_workers("tcp://127.0.0.1:1", settings),
    ):
        pass


# -- workers and schedulers that die ------------------------------------------------------------


def test_a_killed_worker_changes_nothing(
    tmp_path: Path, weights: Path, cluster: Callable[..., Cluster]
) -> None:
    """One of two workers is killed during the run; the second then during another run."""
    source = save(tmp_path / "c.npy", field(SHAPE, "complex64"))
    settings = settings_of(weights)
    alone, target = tmp_path / "alone.npy", tmp_path / "shared.npy"
    upscale_cube(source, alone, settings)
    dask = cluster()
    with scheduler_workers(dask.address, replace(QUICK, patience=60)) as executor:
        executor.client.wait_for_workers(2, 60)
        kill = At(2, dask.workers[0].kill)
        record = upscale_cube(source, target, settings, executor=executor, on_slice=kill)
        assert kill.calls == list(range(1, S + 1))
        assert [r["slice"] for r in record["slice_reports"]] == list(range(S))
        assert digest(target) == digest(alone)
        executor.settings = QUICK
        last = At(3, dask.workers[1].kill)
        with pytest.raises(ResourceError, match=r"no worker is left.*--resume"):
            upscale_cube(source, target, settings, executor=executor, on_slice=last, overwrite=True)
    assert {"shared.npy.part", "shared.npy.journal"} <= set(names(tmp_path))
    upscale_cube(source, target, settings, resume=True, overwrite=True)
    assert digest(target) == digest(alone)


def test_a_lost_scheduler_keeps_finished_slices(
    tmp_path: Path, weights: Path, cluster: Callable[..., Cluster]
) -> None:
    source, settings = save(tmp_path / "c.npy", field(SHAPE)), settings_of(weights)
    upscale_cube(source, tmp_path / "alone.npy", settings)
    dask, target = cluster(), tmp_path / "shared.npy"
    with scheduler_workers(dask.address, WorkerSettings(connect=5)) as executor:
        kill = At(3, dask.scheduler.kill)
        with pytest.raises(ResourceError, match=r"lost.*--resume"):
            upscale_cube(source, target, settings, executor=executor, on_slice=kill)
        with pytest.raises(ResourceError):
            upscale_cube(source, tmp_path / "other.npy", settings, executor=executor)
    assert names(tmp_path) == [
        "alone.npy", "alone.npy.json", "c.npy", "shared.npy.journal", "shared.npy.part",
    ]  # fmt: skip
    ticks = At(-1, interrupt)
    upscale_cube(source, target, settings, resume=True, on_slice=ticks)
    assert len(ticks.calls) == S and digest(target) == digest(tmp_path / "alone.npy")


def test_a_slice_that_kills_workers_is_given_up(
    tmp_path: Path, weights: Path, cluster: Callable[..., Cluster]
) -> None:
    deadly = tmp_path / "deadly.py"
    deadly.write_text(
        "import os\nfrom mzsr_cli.pipeline.workers import Solving\n"
        "Solving.solve = lambda self, run, worker: os._exit(9)\n"
    )
    source, settings = save(tmp_path / "c.npy", field(SHAPE)), settings_of(weights)
    dask = cluster(
        "--preload", str(deadly), DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES="0"
    )  # fmt: skip
    with (
        scheduler_workers(dask.address) as executor,
        pytest.raises(ResourceError, match=r"given up.*--tile"),
    ):
        upscale_cube(source, tmp_path / "o.npy", settings, executor=executor)


# -- the command line ---------------------------------------------------------------------------


def command(source: Path, target: Path, weights: Path, *more: str) -> list[str]:
    """``mzsr upscale`` in a process of its own."""
    start = [sys.executable, "-m", "mzsr_cli.cli.main", "upscale", str(source), "-o", str(target)]
    fixed = ["--scale", "2", "--weights", str(weights), "--precision", "fp32"]
    return [*start, *fixed, *more]


def test_command_line_leaves_nothing_behind(tmp_path: Path, weights: Path) -> None:
    source, target = save(tmp_path / "c.npy", field(SHAPE)), tmp_path / "o.npy"
    process = subprocess.Popen(
        command(source, target, weights, "--steps", "2", "--workers", "2", "--json", "-q"),
        env=environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == b""
    assert json.loads(out)["results"][0]["workers"] == 2
    assert until(lambda: not session_of(process.pid), 20)
    upscale_cube(source, tmp_path / "alone.npy", settings_of(weights))
    assert digest(target) == digest(tmp_path / "alone.npy")


def test_interrupted_command_line(tmp_path: Path, weights: Path) -> None:
    """Ctrl-C reaches the workers too; the result can be resumed, and nobody is left."""
    noise = np.random.default_rng(0).random((65, 61, 1600), np.float32)  # not over too soon
    source, target = save(tmp_path / "c.npy", noise), tmp_path / "o.npy"
    process = subprocess.Popen(
        command(source, target, weights, "--steps", "60", "--workers", "2"),
        env=environment(), start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    journal = tmp_path / "o.npy.journal"
    assert until(lambda: journal.is_file() and journal.read_bytes().count(b"\n") > 3)
    listening = [
        at.laddr.ip for pid in session_of(process.pid)
        for at in psutil.Process(pid).net_connections() if at.status == psutil.CONN_LISTEN
    ]  # fmt: skip
    assert set(listening) == {"127.0.0.1"}
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    said = "mzsr: interrupted. Type the same command with --resume to go on where it stopped."
    assert err.decode().splitlines()[-1] == said and b"Traceback" not in err
    assert names(tmp_path) == ["c.npy", "o.npy.journal", "o.npy.part"]
    assert until(lambda: not session_of(process.pid), 20)
