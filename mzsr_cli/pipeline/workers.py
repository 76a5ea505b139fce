"""Slices on several processes or machines, through dask.distributed (extra ``distributed``).

This process reads LR slices, keeps a few tasks in flight for each worker and writes what they
return; workers solve, and touch no file of the user's. The scheduler gives the tasks of a dead
worker to another one.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import signal
import tempfile
import threading
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import dask
import torch
from distributed import Client, Future, KilledWorker, LocalCluster, WorkerPlugin, get_worker, wait

from mzsr_cli import __version__
from mzsr_cli.cubes.cube import cube_bytes
from mzsr_cli.errors import DeviceError, MzsrError, ResourceError, UsageError, WeightsError
from mzsr_cli.imaging.normalize import Range
from mzsr_cli.learning import catalog, runtime
from mzsr_cli.learning.superresolve import Sample, Solver
from mzsr_cli.learning.weights import Weights, load_weights
from mzsr_cli.pipeline.allocator import keep_freed_memory
from mzsr_cli.pipeline.lanes import Lanes, lane_count, threads_each
from mzsr_cli.pipeline.plan import Plan
from mzsr_cli.pipeline.solving import Job, Solved, Task
from mzsr_cli.settings import Adapting, Precision, UpscaleSettings, WorkerSettings

Run: TypeAlias = list[Task]
"""What one of dask's tasks solves."""

_RESUME = "Finished slices are kept: type --resume to go on."


def check_request(settings: UpscaleSettings) -> None:
    """Raise UsageError where ``settings`` cannot be carried out by several workers."""
    if settings.adapt.mode is Adapting.WARM:
        raise UsageError(
            "--adapt warm: each slice goes on from the one before, which several workers cannot "
            "do. Type --adapt cube or --adapt slice, or leave out --workers and --scheduler."
        )


# -- clusters -----------------------------------------------------------------------------------


@contextmanager
def local_workers(count: int, settings: WorkerSettings | None = None) -> Iterator[OnDask]:
    """``count`` worker processes on this machine for as long as the context lasts.

    They listen on 127.0.0.1 only. Each has OMP_NUM_THREADS threads where that is set, else its
    share of the processors. Raises ResourceError where they do not start.
    """
    settings = settings or WorkerSettings()
    threads = _threads_each(count)
    with ExitStack() as stack:
        stack.enter_context(_configured(settings, threads))
        try:
            cluster = stack.enter_context(_cluster(count))
            client = stack.enter_context(_client(cluster, settings))
            client.register_plugin(Undisturbed())
            client.wait_for_workers(count, settings.patience)
        except (OSError, RuntimeError) as error:
            raise ResourceError(
                f"--workers {count}: they do not start ({error}). Type fewer."
            ) from error
        yield OnDask(client, settings, threads)


@contextmanager
def scheduler_workers(address: str, settings: WorkerSettings | None = None) -> Iterator[OnDask]:
    """The workers of the scheduler at ``address`` (``tcp://host:8786``), whoever started them.

    Raises UsageError (not an address), ResourceError (no answer, no workers).
    """
    settings = settings or WorkerSettings()
    with ExitStack() as stack:
        stack.enter_context(_configured(settings))
        client = stack.enter_context(_connected(address, settings))
        yield OnDask(client, settings, None)


def _connected(address: str, settings: WorkerSettings) -> Client:
    """A client of a scheduler that has workers."""
    if not re.fullmatch(r"(tcp|tls)://\S+:\d+", address):
        raise UsageError(
            f"--scheduler {address}: not understood. Type its address, such as tcp://host:8786."
        )
    try:
        client = _client(address, settings)
    except OSError as error:
        raise ResourceError(
            f"--scheduler {address}: no scheduler answers there. Start one (dask scheduler) and "
            "workers (dask worker ADDRESS), and check the address and the firewall."
        ) from error
    try:
        client.wait_for_workers(1, settings.patience)
    except OSError as error:
        client.close()
        raise ResourceError(
            f"--scheduler {address}: has no workers after {settings.patience:g} s. Start some: "
            f"dask worker {address} --nthreads 1"
        ) from error
    return client


def _threads_each(count: int) -> int:
    if "OMP_NUM_THREADS" in os.environ:
        return torch.get_num_threads()
    return max(1, len(os.sched_getaffinity(0)) // count)


def _cluster(count: int) -> LocalCluster:
    return LocalCluster(
        n_workers=count,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        protocol="tcp",
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},
        memory_limit=0,
        silence_logs=logging.CRITICAL,
    )


def _client(cluster: LocalCluster | str, settings: WorkerSettings) -> Client:
    return Client(cluster, timeout=settings.connect, set_as_default=False)


@contextmanager
def _configured(settings: WorkerSettings, threads: int = 1) -> Iterator[None]:
    """Dask's own messages left out, which say in many lines what our errors say in one; our
    patience with connections; ``threads`` threads in workers that it starts.

    Its MALLOC_TRIM_THRESHOLD_ is left out too: with it every large tensor is fresh memory, and a
    slice took 1.5 times as long.
    """
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    options = {
        "distributed.admin.large-graph-warning-threshold": "1TB",
        "distributed.comm.timeouts.connect": settings.connect,
        "distributed.nanny.pre-spawn-environ": dict.fromkeys(names, threads),
    }
    try:
        with dask.config.set(options):
            yield
    finally:
        logger.setLevel(before)


@contextmanager
def _explained() -> Iterator[None]:
    """What dask raises where a scheduler or its workers are lost, as a ResourceError."""
    try:
        yield
    except MzsrError:
        raise
    except KilledWorker as error:
        raise ResourceError(
            f"a slice was given up: {error.allowed_failures + 1} workers died on it, mostly for "
            "want of memory. Type fewer --workers or a smaller --tile. " + _RESUME
        ) from error
    except (CancelledError, OSError) as error:
        text = " ".join(str(error).split())[:160]
        raise ResourceError(
            f"the scheduler or its workers are lost ({type(error).__name__}: {text}). "
            "Start them again. " + _RESUME
        ) from error


# -- the client's side --------------------------------------------------------------------------


class OnDask:
    """Solves slices on dask workers (see solving.Executor). ``threads`` of torch in each worker;
    None: as many as the worker has."""

    def __init__(self, client: Client, settings: WorkerSettings, threads: int | None) -> None:
        self.client = client
        self.settings = settings
        self.threads = threads
        self._found: dict[str, dict[str, Any]] = {}

    def host(self, name: str) -> torch.device:
        """See Executor.host: the processor, whatever the workers have."""
        return torch.device("cpu")

    def adopted(self, plan: Plan) -> Plan:
        """See Executor.adopted: the device and the precision of the workers.

        Raises DeviceError where they differ in device, UsageError where they run another mzsr,
        ResourceError where they have none.
        """
        self._found = self._described(plan.settings.device)
        kinds = {facts["device"] for facts in self._found.values()}
        if len(kinds) > 1:
            listed = ", ".join(f"{at} {facts['device']}" for at, facts in self._found.items())
            raise DeviceError(
                f"--device {plan.settings.device}: the workers differ ({listed}), and results "
                "differ in rounding between devices. Type --device cpu, or stop some workers."
            )
        precision = plan.precision
        if plan.settings.precision is Precision.AUTO:
            fast = all(facts["fast_bf16"] for facts in self._found.values())
            precision = Precision.BF16 if fast else Precision.FP32
        return replace(plan, device=torch.device(kinds.pop()), precision=precision)

    def _described(self, device: str) -> dict[str, dict[str, Any]]:
        """What each worker that answers says of itself, by its address."""
        if self.client.status != "running":
            raise ResourceError("the scheduler is lost. Start it and its workers again. " + _RESUME)
        with _explained():
            answers = self.client.run(_describe, device, self.threads, on_error="return")
        found = {at: a for at, a in answers.items() if not isinstance(a, Exception)}
        for at, answer in answers.items():
            if isinstance(answer, MzsrError):
                raise answer
            if isinstance(answer, ImportError):
                raise ResourceError(
                    f"worker {at}: cannot import mzsr ({answer}). Type there: pip install "
                    f"'mzsr[distributed]=={__version__}'"
                ) from answer
        for at, facts in found.items():
            if facts["mzsr"] != __version__:
                raise UsageError(
                    f"worker {at}: runs mzsr {facts['mzsr']}, this is {__version__}. Install the "
                    "same version on both sides."
                )
        if not found:
            raise ResourceError("no worker answers. Start some: dask worker ADDRESS --nthreads 1")
        return found

    def facts(self, plan: Plan) -> dict[str, Any]:
        """See Executor.facts: what the workers were when the run began."""
        used = sorted({facts["description"] for facts in self._found.values()})
        return {"device_used": ", ".join(used), "workers": len(self._found)}

    def solve(self, job: Job) -> Generator[Solved]:
        """See Executor.solve. Raises what slices raise on workers, and ResourceError where
        workers die again and again, or all are gone."""
        name = f"mzsr-{uuid.uuid4()}"
        flying: set[Future] = set()
        with _explained():
            self.client.register_plugin(Solving(_recipe(job, self.threads)), name=name)
            try:
                todo = job.todo()
                while todo or flying:
                    self._launch(job, name, todo, flying)
                    for future in self._landed(flying):
                        flying.remove(future)
                        solved: list[Solved] = future.result()
                        yield from solved
            finally:
                self._forget(name, flying)

    def _forget(self, name: str, flying: set[Future]) -> None:
        """Leave nothing of a job on the scheduler, where there still is one."""
        if self.client.status != "running":
            return
        with suppress(OSError, CancelledError):
            self.client.cancel(list(flying))
            self.client.unregister_worker_plugin(name)

    def _launch(
        self, job: Job, name: str, todo: list[tuple[int, int]], flying: set[Future]
    ) -> None:
        """Take slices off ``todo`` until every worker has enough to do."""
        workers = max(1, len(self.client.nthreads()))
        while todo and len(flying) < self.settings.tasks * workers:
            length = self._length(job.plan, len(todo), workers)
            run = [Task(position, k, job.image(k)) for position, k in todo[:length]]
            del todo[:length]
            flying.add(self.client.submit(_solve_run, name, run, pure=False))

    def _length(self, plan: Plan, left: int, workers: int) -> int:
        """Slices of the next task: fewer towards the end, so that all workers end together, but for
        every lane of a worker one."""
        settings = self.settings
        small = settings.run_bytes // max(1, cube_bytes(plan.shape[:2], plan.out.dtype))
        least = (self.threads or 1) if threads_each(plan) == 1 else 1
        most = max(least, settings.run)
        return max(least, min(most, small, left // (settings.rounds * workers)))

    def _landed(self, flying: set[Future]) -> set[Future]:
        """The tasks in flight that are done; waits for one."""
        while True:
            with suppress(TimeoutError), self.client.as_current():
                return set(wait(flying, self.settings.patience, "FIRST_COMPLETED").done)
            if not self.client.nthreads():
                raise ResourceError(
                    f"no worker is left, and none has come for {self.settings.patience:g} s. "
                    "Start workers again. " + _RESUME
                )


def _recipe(job: Job, threads: int | None) -> Recipe:
    """What a worker needs for the slices of ``job``. Raises WeightsError, InputError."""
    plan = replace(job.plan, weights=None, second=None)
    first = _packed(job.plan.weights, job.plan.settings.weights)
    second = _packed(job.plan.second, None)
    return Recipe(plan, first, second, job.cube_range, list(job.shared()), threads)


def _packed(weights: Weights | None, named: str | None) -> Packed | None:
    if weights is None:
        return None
    path = catalog.find(named or weights.name)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != weights.digest:
        raise WeightsError(f"{path}: has changed since this run began. Start again.")
    return Packed(weights.name, weights.digest, content)


# -- the workers' side --------------------------------------------------------------------------


@dataclass(frozen=True)
class Packed:
    """A weights file on its way to workers."""

    name: str
    digest: str
    content: bytes

    def unpacked(self, device: torch.device) -> Weights:
        """The weights. Raises WeightsError where they are not what was sent."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{self.name}{catalog.SUFFIX}"
            path.write_bytes(self.content)
            weights = load_weights(path, device)
        if weights.digest != self.digest:
            raise WeightsError(f"weights {self.name}: arrived damaged. Start again.")
        return weights


@dataclass(frozen=True)
class Recipe:
    """What makes a solver, sent to each worker once; the plan's weights travel packed."""

    plan: Plan
    weights: Packed | None
    second: Packed | None
    cube_range: Range | None
    shared: list[Sample]
    threads: int | None

    def solver(self, device: torch.device) -> Solver:
        """The plan's solver on ``device``, adapted to the shared slices. Raises WeightsError."""
        first, second = (
            packed.unpacked(device) if packed is not None else None
            for packed in (self.weights, self.second)
        )
        solver = replace(self.plan, device=device, weights=first, second=second).solver()
        solver.learn(self.shared)
        return solver


class Solving(WorkerPlugin):
    """A worker's lanes for one job: made at its first task, gone with the job. One task at a time,
    with all of the worker's threads."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def setup(self, worker: Any) -> None:
        """Called by dask when the worker gets the job."""
        keep_freed_memory()
        self._lock = threading.Lock()
        self._lanes: Lanes | None = None

    def solve(self, run: Run, worker: Any) -> list[Solved]:
        """The slices of one task. Raises MzsrError."""
        recipe = self.recipe
        with self._lock:
            threads = _threads(worker, recipe.threads)
            plan = replace(recipe.plan, device=_device(worker, recipe.plan))
            torch.set_num_threads(threads)
            with runtime.threads(threads_each(plan)):
                if self._lanes is None:
                    solver = recipe.solver(plan.device)
                    count = lane_count(plan, threads)
                    self._lanes = Lanes(solver, plan, recipe.cube_range, count)
                return list(self._lanes.solve(run))


class Undisturbed(WorkerPlugin):
    """Ctrl-C on the terminal is for the client, which then stops its workers."""

    def setup(self, worker: Any) -> None:
        """Called by dask when a worker starts."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _solve_run(name: str, run: Run) -> list[Solved]:
    """A task, on a worker that has the plugin ``name``."""
    worker = get_worker()
    solving = worker.plugins[name]
    assert isinstance(solving, Solving)
    return solving.solve(run, worker)


def _threads(worker: Any, threads: int | None) -> int:
    return threads or int(worker.state.nthreads)


def _device(worker: Any, plan: Plan) -> torch.device:
    """The worker's device, of the plan's type; GPUs of one machine go to its workers in turn.

    Raises DeviceError where the worker has another type.
    """
    device = runtime.pick_device(plan.settings.device)
    if device.type != plan.device.type:
        raise DeviceError(
            f"worker {worker.address}: would compute on {device.type}, this run on "
            f"{plan.device.type}, and results differ in rounding. Type --device cpu, or stop "
            "that worker."
        )
    if device.type == "cuda" and device.index is None and isinstance(worker.name, int):
        return torch.device("cuda", worker.name % torch.cuda.device_count())
    return device


def _describe(device_name: str, threads: int | None, dask_worker: Any = None) -> dict[str, Any]:
    """What this worker is, for the client. Raises DeviceError."""
    device = runtime.pick_device(device_name)
    torch.set_num_threads(_threads(dask_worker, threads))
    return {
        "mzsr": __version__,
        "device": device.type,
        "fast_bf16": runtime.has_fast_bf16(device),
        "description": runtime.describe_device(device),
    }
