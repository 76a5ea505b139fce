"""Several processes that train together, started by ``torchrun``: gloo on CPUs, nccl on GPUs.

Each process (rank) takes its share of a batch, gradients and figures are summed, and all ranks
make the same step. DistributedDataParallel is not used: it sums gradients in hooks on one forward
pass of a module, but here they add up over tasks, through functional_call and inner steps.
"""

from __future__ import annotations

import hashlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from mzsr_cli.errors import DeviceError, RankError, UsageError
from mzsr_cli.learning.runtime import pick_device
from mzsr_cli.settings import RANKS_TIMEOUT

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torchrun tells each process through its environment."""


@dataclass(frozen=True)
class Ranks:
    """This process, number ``rank`` of ``count``, and what all of them do in common.

    Every method but ``share`` must be called by all ranks, in the same order; each raises
    RankError where another rank has stopped. Alone (count 1) none of them does anything.
    """

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the rank that validates, writes and speaks."""
        return self.rank == 0

    def share(self, batch: int) -> range:
        """This rank's indices of a batch: rank, rank + count, ..."""
        return range(self.rank, batch, self.count)

    def sum_gradients(self, leaves: Iterable[torch.Tensor]) -> None:
        """Replace each leaf's ``.grad`` by the sum over the ranks, all in one reduction.

        A gradient that a rank lacks counts as zero; one that all lack stays None.
        """
        if self.count == 1:
            return
        leaves = list(leaves)
        held = torch.tensor([float(p.grad is not None) for p in leaves], device=self.device)
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in leaves]
        flat = self._sum(torch.cat([held, *(part.reshape(-1) for part in parts)]))
        held, *sums = flat.split([len(leaves), *(p.numel() for p in leaves)])
        for leaf, part, some in zip(leaves, sums, held.tolist(), strict=True):
            if some:
                leaf.grad = torch.empty_like(leaf).copy_(part.view(leaf.shape))

    def sum_figures(self, figures: dict[str, float]) -> dict[str, float]:
        """Each figure summed over the ranks, which all have the same names."""
        if self.count == 1:
            return figures
        values = torch.tensor(list(figures.values()), dtype=torch.float64, device=self.device)
        return dict(zip(figures, self._sum(values).tolist(), strict=True))

    def from_first(self, value: float) -> float:
        """The first rank's value."""
        return self.sum_figures({"value": value if self.first else 0.0})["value"]

    def wait(self) -> None:
        """Return when all ranks are here."""
        self.from_first(0.0)

    def agree(self, content: bytes) -> bool:
        """Whether all ranks hold the same content."""
        own = float(int.from_bytes(hashlib.sha256(content).digest()[:6]))
        other = {"other": float(own != self.from_first(own))}
        return self.sum_figures(other)["other"] == 0

    @contextmanager
    def stopping(self) -> Iterator[Callable[[], None]]:
        """Ctrl-C and SIGTERM take effect between updates, on all ranks at the same one: where
        the function that is given is called, it raises KeyboardInterrupt. Alone, both interrupt
        at once, as Ctrl-C ever does."""
        caught: list[int] = []

        def stop() -> None:
            if self.sum_figures({"signals": float(len(caught))})["signals"]:
                raise KeyboardInterrupt

        handlers: dict[int, Any] = dict.fromkeys(
            (signal.SIGINT, signal.SIGTERM), lambda number, _: caught.append(number)
        )
        if self.count == 1:
            handlers = {signal.SIGTERM: signal.default_int_handler}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _sum(self, values: torch.Tensor) -> torch.Tensor:
        """Values summed over the ranks, in place."""
        try:
            distributed.all_reduce(values)
        except RuntimeError as error:
            raise RankError(
                f"rank {self.rank} of {self.count}: another rank has stopped or cannot be reached "
                "(its own message says why). Start again, with --resume once there is a checkpoint."
            ) from error
        return values


ALONE = Ranks(0, 1, torch.device("cpu"))
"""One process."""


@contextmanager
def joined(environment: Mapping[str, str], device_name: str, batch: int) -> Iterator[Ranks]:
    """The ranks that torchrun's variables in ``environment`` speak of, on ``device_name`` each;
    without them (or with one process) a rank alone.

    Raises UsageError where ``batch`` has less than a task a rank, DeviceError, RankError.
    """
    rank, count, local = _place(environment)
    if count == 1:
        yield Ranks(rank, count, pick_device(device_name))
        return
    if batch < count:
        raise UsageError(
            f"--batch {batch}: fewer than the {count} processes that torchrun started. "
            f"Type --batch {count} or more, or start fewer processes."
        )
    device = _own_device(device_name, local)
    with _group(device):
        yield Ranks(rank, count, device)


def _place(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """Rank, number of ranks, and rank on this machine."""
    if not all(name in environment for name in VARIABLES):
        return 0, 1, 0
    try:
        rank, count, local = (int(environment[name]) for name in VARIABLES[:3])
    except ValueError as error:
        raise UsageError(
            "RANK, WORLD_SIZE and LOCAL_RANK in the environment are no whole numbers. Start with "
            "torchrun, or unset them."
        ) from error
    return rank, count, local


def _own_device(name: str, local: int) -> torch.device:
    """The device of rank ``local`` of this machine: a GPU for itself, or the CPU."""
    if name.startswith("cuda:"):
        raise UsageError(
            f"--device {name}: under torchrun each process takes a GPU of its own. "
            "Type --device cuda."
        )
    device = pick_device(name)
    if device.type == "cpu":
        return device
    there = torch.cuda.device_count()
    if local >= there:
        raise DeviceError(
            f"--device {name}: process {local} of this machine finds no GPU of its own; there are "
            f"{there}, counted from 0. Type --nproc-per-node {there}, or --device cpu."
        )
    return torch.device("cuda", local)


@contextmanager
def _group(device: torch.device) -> Iterator[None]:
    """The process group, whose ranks give up when they have waited RANKS_TIMEOUT for another.

    After an error a group on GPUs is left to the end of the process: to destroy it would be to
    wait for the other ranks.
    """
    if not distributed.is_available():
        raise DeviceError("this torch has no torch.distributed. Start without torchrun.")
    on_gpu = device.type == "cuda"
    if on_gpu:
        os.environ.setdefault("TORCH_NCCL_BLOCKING_WAIT", "1")  # a lost rank is an error, no hang
        torch.cuda.set_device(device)
    try:
        distributed.init_process_group(
            "nccl" if on_gpu else "gloo",
            timeout=timedelta(seconds=RANKS_TIMEOUT),
            device_id=device if on_gpu else None,
        )
    except RuntimeError as error:
        raise RankError(f"the ranks of torchrun do not find each other: {error}") from error
    unbroken = False
    try:
        yield
        unbroken = True
    finally:
        if unbroken or not on_gpu:
            distributed.destroy_process_group()
