"""A real dask scheduler and workers, each a process of its own on 127.0.0.1, for the tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0


def environment(**more: str) -> dict[str, str]:
    """Variables of a process that finds this checkout and uses one thread."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    fixed = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    return {**os.environ, **fixed, **more}


def session_of(leader: int) -> list[int]:
    """Living processes of the session that ``leader`` leads or led."""
    return [p.pid for p in psutil.process_iter(["status"]) if alive(p) and sid(p.pid) == leader]


def alive(process: psutil.Process) -> bool:
    """Whether it runs still."""
    return bool(process.info["status"] != psutil.STATUS_ZOMBIE)


def sid(pid: int) -> int:
    """The session of a process; -1 where it has gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return -1


def until(condition: Any, patience: float = PATIENCE) -> bool:
    """Whether ``condition()`` holds within ``patience`` seconds."""
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


class Cluster:
    """A scheduler and two workers; ``close`` kills what is left of them."""

    def __init__(self, folder: Path, *worker_options: str, **variables: str) -> None:
        self.folder, self.variables = folder, variables
        self._file = folder / "scheduler.json"
        self.scheduler = self._start(
            "scheduler", "--port", "0", "--no-dashboard", "--no-show",
            "--scheduler-file", str(self._file),
        )  # fmt: skip
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--memory-limit", "0")
        files = ("--scheduler-file", str(self._file), "--local-directory", str(folder))
        self.workers = [
            self._start("worker", *options, *files, *worker_options) for _ in range(2)
        ]  # fmt: skip
        assert until(self._file.is_file)
        assert until(lambda: "tcp" in self._file.read_text())
        self.address: str = json.loads(self._file.read_text())["address"]

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *arguments, "--host", "127.0.0.1"],
            env=environment(**self.variables), cwd=self.folder,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        """Kill what is left."""
        for process in [*self.workers, self.scheduler]:
            process.kill()
            process.wait()
