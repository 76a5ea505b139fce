"""One of two ranks that tests/test_ranks.py starts: runs its cases in turn, each in a group of its
own:  python tests/ranks_worker.py RANK CASES.json RESULTS.json"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from mzsr_cli.cli.main import exit_code
from mzsr_cli.errors import InputError
from mzsr_cli.learning.patches import TaskMaker
from mzsr_cli.learning.ranks import joined
from mzsr_cli.learning.training import Trainer

COUNT = 2
LOG_EVERY = 4
STRUCK_AT = 2
"""Iteration (from 0) in which the second rank is struck."""


def variables(rank: int, port: int) -> dict[str, str]:
    """What torchrun would set."""
    return {"RANK": str(rank), "WORLD_SIZE": str(COUNT), "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}  # fmt: skip


def digest(trainer: Trainer) -> str:
    """Of the leaves, bit for bit."""
    content = b"".join(p.detach().numpy().tobytes() for p in trainer.leaves.values())
    return hashlib.sha256(content).hexdigest()


@contextmanager
def watched(ends: list[str]) -> Iterator[None]:
    """Trainings log every few updates; how their leaves end is appended to ``ends``."""
    train = Trainer.train

    def recorded(self: Trainer, *arguments: Any) -> dict[str, float]:
        try:
            return train(self, *arguments, log_every=LOG_EVERY)
        finally:
            ends.append(digest(self))

    with patch.object(Trainer, "train", recorded):
        yield


def struck(how: str) -> Callable[..., Any]:
    """TaskMaker.task that is hit by SIGTERM, or fails."""
    task = TaskMaker.task

    def strike(self: TaskMaker, iteration: int, index: int, support: bool) -> Any:
        if iteration == STRUCK_AT:
            if how == "fail":
                raise InputError("struck")
            os.kill(os.getpid(), signal.SIGTERM)
        return task(self, iteration, index, support)

    return strike


def command(rank: int, case: dict[str, Any]) -> dict[str, Any]:
    """Run ``mzsr`` with the case's arguments."""
    ends: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(watched(ends))
        if rank and "strike" in case:
            stack.enter_context(patch.object(TaskMaker, "task", struck(case["strike"])))
        more = case.get("second", []) if rank else []
        code = exit_code([*case["arguments"], *more])
    return {"code": code, "leaves": ends}


def sums(rank: int) -> dict[str, Any]:
    """What the methods of Ranks give on four leaves: gradients on both ranks, on the second, on
    none, and on both in channels_last."""
    plain = [torch.zeros(3, requires_grad=True) for _ in range(3)]
    last = torch.zeros(2, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_()
    counted = torch.arange(24.0).reshape(2, 3, 2, 2)
    plain[0].grad = torch.full((3,), 1.0 + rank)
    plain[1].grad = torch.full((3,), 5.0) if rank else None
    last.grad = (counted * (1 + rank)).to(memory_format=torch.channels_last)
    with joined(os.environ, "cpu", COUNT) as ranks:
        ranks.sum_gradients([*plain, last])
        return {
            "gradients": [None if p.grad is None else p.grad.tolist() for p in plain],
            "last": bool(torch.equal(last.grad, 3 * counted)),
            "format": last.grad.is_contiguous(memory_format=torch.channels_last),
            "figures": ranks.sum_figures({"a": 0.1 + rank, "b": 1.0}),
            "first": ranks.from_first(0.1 + rank),
            "agree": [ranks.agree(b"same"), ranks.agree(bytes([rank]))],
            "share": list(ranks.share(5)),
        }


def main() -> None:
    """Run the cases and write what came of each."""
    rank, results = int(sys.argv[1]), {}
    for case in json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")):
        os.environ.update(variables(rank, case["port"]))
        print(f"-- {case['name']}", file=sys.stderr, flush=True)
        done = command(rank, case) if "arguments" in case else sums(rank)
        results[case["name"]] = done
    Path(sys.argv[3]).write_text(json.dumps(results), encoding="utf-8")
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
