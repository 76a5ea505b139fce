"""Runs that are killed at random moments, and resumed, give the bytes of an unbroken run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cube_files import digest
from upscale_files import field, names, save, tiny_weights

from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.journal import Journal
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import AdaptSettings, Precision, UpscaleSettings

KILLS = 20


@dataclass(frozen=True)
class Job:
    """A run of ``mzsr upscale`` for a process of its own."""

    source: Path
    target: Path
    weights: Path

    def run(self) -> None:
        settings = UpscaleSettings(
            scale=(2.0, 2.0), weights=str(self.weights), precision=Precision.FP32,
            adapt=AdaptSettings(steps=2),
        )  # fmt: skip
        upscale_cube(self.source, self.target, settings, resume=True)


def started(job: Job) -> multiprocessing.process.BaseProcess:
    """From a server that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mzsr_cli.pipeline.upscale"])
    process = context.Process(target=job.run)
    process.start()
    return process


def ended(process: multiprocessing.process.BaseProcess) -> int | None:
    process.join(120)
    return process.exitcode


def seconds(job: Job) -> float:
    """How long a run lasts that is left alone."""
    begin = time.monotonic()
    assert ended(started(job)) == 0
    return time.monotonic() - begin


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["c_v73.mat", "c.npy", "c.tif", "c.zarr"])
def test_killed_at_random_moments(tmp_path: Path, name: str, rng: np.random.Generator) -> None:
    """Twenty times each; when a run gets through before its moment, the next one starts anew."""
    source = save(tmp_path / name, field((23, 18, 7), "complex64"))
    weights = tiny_weights(tmp_path / "tiny.safetensors")
    whole = Job(source, tmp_path / f"whole{source.suffix}", weights)
    assert ended(started(whole)) == 0
    lasts = min(seconds(Job(source, tmp_path / f"{i}{source.suffix}", weights)) for i in range(3))
    kills, count, broken, done = 0, 0, whole, True
    for _ in range(4 * KILLS):
        if kills == KILLS:
            break
        if done:
            assert digest(broken.target) == digest(whole.target)
            count += 1
            broken = Job(source, tmp_path / f"broken{count}{source.suffix}", weights)
        process = started(broken)
        time.sleep(rng.uniform(0, 0.7 * lasts))
        if process.is_alive():
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
        code = ended(process)
        assert code in (0, -signal.SIGKILL)
        done = code == 0
        kills += not done
    assert kills == KILLS
    assert ended(started(broken)) == 0
    assert digest(broken.target) == digest(whole.target)
    left = [file for file in names(tmp_path) if ".part" in file or ".journal" in file]
    assert left == []


@pytest.mark.parametrize("where", ["before the provenance", "before the journal goes"])
def test_killed_at_the_very_end(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result has its name already: the next run takes the steps that are left."""
    source = save(tmp_path / "c.npy", field((23, 18, 3)))
    job = Job(source, tmp_path / "o.npy", tiny_weights(tmp_path / "tiny.safetensors"))
    commit, remove = AtomicOutput.commit, Journal.remove

    def committed(self: AtomicOutput) -> Path:
        if self.target.suffix == ".json" and where == "before the provenance":
            raise KeyboardInterrupt
        return commit(self)

    def removed(self: Journal) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AtomicOutput, "commit", committed)
    monkeypatch.setattr(Journal, "remove", removed)
    with pytest.raises(KeyboardInterrupt):
        job.run()
    assert job.target.exists() and (tmp_path / "o.npy.journal").exists()
    monkeypatch.setattr(AtomicOutput, "commit", commit)
    monkeypatch.setattr(Journal, "remove", remove)
    before = digest(job.target)
    job.run()
    assert digest(job.target) == before
    assert names(tmp_path) == ["c.npy", "o.npy", "o.npy.json", "tiny.safetensors"]


def test_killed_before_the_part_was_there(tmp_path: Path) -> None:
    source = save(tmp_path / "c.npy", field((23, 18, 3)))
    job = Job(source, tmp_path / "o.npy", tiny_weights(tmp_path / "tiny.safetensors"))
    whole = Job(source, tmp_path / "whole.npy", job.weights)
    whole.run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mzsr_cli.pipeline.upscale.create_cube", interrupted)
        with pytest.raises(KeyboardInterrupt):
            job.run()
    assert (tmp_path / "o.npy.journal").exists() and not (tmp_path / "o.npy.part").exists()
    job.run()
    assert digest(job.target) == digest(whole.target)


def interrupted(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt
