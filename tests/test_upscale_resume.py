"""``mzsr upscale --resume``: an interrupted run continues to the same bytes, or is refused."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cube_files import digest
from upscale_files import (
    H,
    S,
    StopAfter,
    W,
    content,
    field,
    load,
    names,
    save,
    tiny_weights,
    upscale,
)

from mzsr_cli.cli import show
from mzsr_cli.cubes.base import ArrayReader
from mzsr_cli.cubes.hdf5 import H5Reader
from mzsr_cli.cubes.open import create_cube
from mzsr_cli.errors import OutputError, ResourceError, ResumeError
from mzsr_cli.pipeline.upscale import upscale_cube
from mzsr_cli.settings import (
    Adapting,
    AdaptSettings,
    Method,
    Precision,
    UpscaleSettings,
    ZssrSettings,
)

KINDS = ["c.npy", "c_v73.mat", "c.mat", "c.tif", "c.zarr", "c.h5", "c.npz"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def settings_of(weights: Path, steps: int = 3) -> UpscaleSettings:
    return UpscaleSettings(
        scale=(2.0, 2.0), weights=str(weights), precision=Precision.FP32,
        adapt=AdaptSettings(steps=steps),
    )  # fmt: skip


@pytest.fixture
def interrupting(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The command line is interrupted after its first slice; undo() lets it run."""

    def stop(self: Any, done: int, count: int, report: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(show.UpscaleTicker, "slice", stop)
    return monkeypatch


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("after", [1, 2])
def test_resumed_equals_unbroken(tmp_path: Path, weights: Path, name: str, after: int) -> None:
    source = save(tmp_path / name, field(dtype="complex64"))
    suffix, settings = source.suffix, settings_of(weights)
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    upscale_cube(source, whole, settings)
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, broken, settings, on_slice=StopAfter(after))
    left = names(tmp_path)
    assert f"{broken.name}.part" in left and f"{broken.name}.journal" in left
    assert broken.name not in left and f"{broken.name}.json" not in left
    ticker = StopAfter(-1)
    record = upscale_cube(source, broken, settings, resume=True, on_slice=ticker)
    assert digest(broken) == digest(whole)
    assert [report is None for _, _, report in ticker.calls] == [k < after for k in range(S)]
    assert [r["slice"] for r in record["slice_reports"]] == list(range(S))
    results = [whole.name, broken.name]
    assert names(tmp_path) == sorted([source.name, *results, *(f"{n}.json" for n in results)])


class Struck:
    """Ctrl-C comes while this is taken away, where Python forgets what is raised."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def test_an_interrupt_in_a_destructor_is_not_lost(
    tmp_path: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, settings = save(tmp_path / "c.npy", field()), settings_of(weights)
    whole, broken = tmp_path / "whole.npy", tmp_path / "broken.npy"
    upscale_cube(source, whole, settings)
    handler, hook = signal.getsignal(signal.SIGINT), sys.unraisablehook
    done: list[int] = []

    def strike(finished: int, count: int, report: Any) -> None:
        done.append(finished)
        Struck()

    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, broken, settings, on_slice=strike)
    assert done == [1] and "Traceback" not in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGINT), sys.unraisablehook) == (handler, hook)
    upscale_cube(source, broken, settings, resume=True)
    assert digest(broken) == digest(whole)


@pytest.mark.parametrize("name", ["c.npy", "c.npz", "c_v73.mat", "c.mat", "c.h5", "c.tif"])
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
@pytest.mark.parametrize("call", ["pwrite", "fsync"])
def test_a_file_system_that_goes_is_said_and_survived(
    tmp_path: Path,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    dtype: str,
    call: str,
) -> None:
    """Finished slices are kept, and the run goes on once the file system is back."""
    source = save(tmp_path / name, field(dtype=dtype))
    suffix, settings = source.suffix, settings_of(weights)
    whole, broken = tmp_path / f"whole{suffix}", tmp_path / f"broken{suffix}"
    upscale_cube(source, whole, settings)

    def gone(*arguments: Any) -> Any:
        raise OSError(errno.ESTALE, "Stale file handle")

    def vanish(finished: int, count: int, report: Any) -> None:
        if finished == 2:
            monkeypatch.setattr(os, call, gone)

    with pytest.raises(OutputError, match=f"{broken.name}.*Stale file handle"):
        upscale_cube(source, broken, settings, on_slice=vanish)
    monkeypatch.undo()
    left = names(tmp_path)
    assert f"{broken.name}.part" in left and f"{broken.name}.journal" in left
    ticker = StopAfter(-1)
    upscale_cube(source, broken, settings, resume=True, on_slice=ticker)
    assert ticker.calls[0][2] is None, "the first slice had been finished"
    assert digest(broken) == digest(whole)


@pytest.mark.parametrize("name", ["c.npy", "c_v73.mat", "c.zarr"])
def test_an_input_that_goes_is_said_and_survived(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Finished slices are kept; chunks of a Zarr folder that is gone do not read as zeros."""
    source, settings = save(tmp_path / name, field((H, W, 5))), settings_of(weights)
    whole, broken, away = (tmp_path / f"{n}{source.suffix}" for n in ("whole", "broken", "away"))
    upscale_cube(source, whole, settings)

    def gone(self: Any, k: int) -> Any:
        raise OSError(errno.EIO, "Input/output error")

    def vanish(finished: int, count: int, report: Any) -> None:
        if finished == 1 and name == "c.zarr":
            source.rename(away)
        elif finished == 1:
            for reader in (ArrayReader, H5Reader):
                monkeypatch.setattr(reader, "fetch", gone)

    with pytest.raises(ResourceError, match=f"{name}.*does not answer"):
        upscale_cube(source, broken, settings, on_slice=vanish)
    monkeypatch.undo()
    if away.exists():
        away.rename(source)
    assert (tmp_path / f"{broken.name}.part").exists()
    ticker = StopAfter(-1)
    upscale_cube(source, broken, settings, resume=True, on_slice=ticker)
    assert ticker.calls[0][2] is None, "the first slice had been finished"
    assert digest(broken) == digest(whole)


@pytest.mark.parametrize("mode", list(Adapting))
def test_resumed_equals_unbroken_however_adapted(
    tmp_path: Path, weights: Path, mode: Adapting
) -> None:
    source = save(tmp_path / "c.npy", field((41, 37, 4)))
    settings = settings_of(weights)
    settings = replace(settings, adapt=replace(settings.adapt, mode=mode))
    whole, broken = tmp_path / "whole.npy", tmp_path / "broken.npy"
    upscale_cube(source, whole, settings)
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, broken, settings, on_slice=StopAfter(2))
    upscale_cube(source, broken, settings, resume=True)
    assert digest(broken) == digest(whole)


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_interrupted_command_line(
    tmp_path: Path, weights: Path, dtype: str, interrupting: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = save(tmp_path / "c.npy", field(dtype=dtype))
    options = ("--scale", 2, "--weights", weights, "--steps", 2)
    assert upscale(source, *options, "--json") == 130
    out, err = capfd.readouterr()
    assert out == "" and "interrupted. Type the same command with --resume" in err
    assert names(tmp_path) == ["c.npy", "c_x2.npy.journal", "c_x2.npy.part"]
    interrupting.undo()
    assert upscale(source, *options, "--resume") == 0
    assert "already done" in capfd.readouterr().err
    assert names(tmp_path) == ["c.npy", "c_x2.npy", "c_x2.npy.json"]
    assert upscale(source, *options, "-o", tmp_path / "whole.npy") == 0
    assert (tmp_path / "c_x2.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--steps", 4), "steps"),
        (("--seed", 1), "seed"),
        (("--normalize", "cube"), "normalize"),
        (("--sampling", "direct"), "sampling"),
        (("--kernel", "gaussian:0.4"), "kernel"),
        (("--slices", "0:2"), "slices"),
        (("--method", "spline"), "method"),
        (("--tile", 64), "side"),
    ],
)
def test_other_settings_are_refused(
    tmp_path: Path, weights: Path, interrupting: pytest.MonkeyPatch, changed: tuple[str, Any],
    named: str, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = save(tmp_path / "c.npy", field())
    options = ("--scale", 2, "--weights", weights, "--steps", 2)
    assert upscale(source, *options) == 130
    interrupting.undo()
    before = content(tmp_path)
    capfd.readouterr()
    assert upscale(source, *options, *changed, "--resume") == 6
    err = capfd.readouterr().err.splitlines()[-1]
    assert named in err and "c_x2.npy" in err and "--resume" in err
    assert content(tmp_path) == before
    assert upscale(source, *options, "--resume") == 0


def test_other_weights_are_refused(
    tmp_path: Path, weights: Path, interrupting: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "c.npy", field())
    own = tiny_weights(tmp_path / "w.safetensors")
    assert upscale(source, "--scale", 2, "--weights", own) == 130
    tiny_weights(own, seed=2)
    interrupting.undo()
    assert upscale(source, "--scale", 2, "--weights", own, "--resume") == 6


def test_changed_input_is_refused(
    tmp_path: Path, weights: Path, interrupting: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, "--scale", 2, "--weights", weights) == 130
    interrupting.undo()
    times = source.stat()
    cube = field()
    cube[0, 0, 0] += 1
    save(source, cube)
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    before = content(tmp_path)
    assert upscale(source, "--scale", 2, "--weights", weights, "--resume") == 6
    assert content(tmp_path) == before


def test_damaged_slice_is_made_again(tmp_path: Path, weights: Path) -> None:
    """A finished slice whose samples are not those of the journal is not trusted."""
    source, settings = save(tmp_path / "c.npy", field()), settings_of(weights)
    upscale_cube(source, tmp_path / "whole.npy", settings)
    target = tmp_path / "broken.npy"
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, target, settings, on_slice=StopAfter(2))
    part = np.load(tmp_path / "broken.npy.part", mmap_mode="r+")
    part[3, 4, 0] += 1
    part.flush()
    upscale_cube(source, target, settings, resume=True)
    assert target.read_bytes() == (tmp_path / "whole.npy").read_bytes()


def test_torn_journal_line_is_dropped(tmp_path: Path, weights: Path) -> None:
    source, settings = save(tmp_path / "c.npy", field()), settings_of(weights)
    upscale_cube(source, tmp_path / "whole.npy", settings)
    target = tmp_path / "broken.npy"
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, target, settings, on_slice=StopAfter(2))
    journal = tmp_path / "broken.npy.journal"
    journal.write_bytes(journal.read_bytes()[:-20])
    ticker = StopAfter(-1)
    upscale_cube(source, target, settings, resume=True, on_slice=ticker)
    assert [report is None for _, _, report in ticker.calls] == [True, False, False]
    assert target.read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("header", ["whole", "torn", "empty"])
def test_killed_while_the_part_was_laid_out(
    tmp_path: Path, weights: Path, name: str, header: str
) -> None:
    """The journal has no slice, and what there is of the part is not to be trusted."""
    source, settings = save(tmp_path / name, field(dtype="complex64")), settings_of(weights)
    whole, broken = (tmp_path / f"{kind}{source.suffix}" for kind in ("whole", "broken"))
    upscale_cube(source, whole, settings)
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, broken, settings, on_slice=StopAfter(1))
    journal, part = (broken.with_name(broken.name + end) for end in (".journal", ".part"))
    first = journal.read_bytes().splitlines(keepends=True)[0]
    journal.write_bytes({"whole": first, "torn": first[:-9], "empty": b""}[header])
    files = [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.is_file())
    for file in files:
        os.truncate(file, file.stat().st_size // 2)
    upscale_cube(source, broken, settings, resume=True)
    assert digest(broken) == digest(whole)


def test_missing_part_is_refused(tmp_path: Path, weights: Path) -> None:
    source, settings = save(tmp_path / "c.npy", field()), settings_of(weights)
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, tmp_path / "o.npy", settings, on_slice=StopAfter(1))
    (tmp_path / "o.npy.part").unlink()
    with pytest.raises(ResumeError, match=r"o\.npy\.part"):
        upscale_cube(source, tmp_path / "o.npy", settings, resume=True)


def test_resume_without_a_journal_starts(tmp_path: Path, weights: Path) -> None:
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, "--scale", 2, "--weights", weights, "--resume") == 0
    assert load(tmp_path / "c_x2.npy").shape == (2 * H, 2 * W, S)


def test_without_resume_a_run_starts_anew(
    tmp_path: Path, weights: Path, interrupting: pytest.MonkeyPatch
) -> None:
    source = save(tmp_path / "c.npy", field())
    assert upscale(source, "--scale", 2, "--weights", weights, "--steps", 2) == 130
    interrupting.undo()
    assert upscale(source, "--scale", 2, "--weights", weights, "--steps", 5) == 0
    assert names(tmp_path) == ["c.npy", "c_x2.npy", "c_x2.npy.json"]


def lost(code: int) -> io.StringIO:
    """A terminal to which nothing can be written any more."""

    class Lost(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            raise OSError(code, os.strerror(code))

    return Lost()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_lost_terminal_or_log_does_not_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    source = save(tmp_path / "c.npy", field())
    options = ("--scale", 2, "--method", "spline")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", lost(code))
        assert upscale(source, *options, "-v") == 0
        assert upscale(source, *options) == 2, "errors are still told apart"
    assert names(tmp_path) == ["c.npy", "c_x2.npy", "c_x2.npy.json"]
    assert upscale(source, *options, "-o", tmp_path / "whole.npy") == 0
    assert (tmp_path / "c_x2.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("error", [OSError(errno.EIO, "gone"), ResumeError("gone")])
def test_only_faults_of_the_input_discard_finished_slices(
    tmp_path: Path, weights: Path, error: Exception
) -> None:
    source, settings = save(tmp_path / "c.npy", field()), settings_of(weights)

    def fail(done: int, count: int, report: Any) -> None:
        if done == 2:
            raise error

    with pytest.raises(type(error), match="gone"):
        upscale_cube(source, tmp_path / "o.npy", settings, on_slice=fail)
    assert names(tmp_path) == ["c.npy", "o.npy.journal", "o.npy.part"]
    upscale_cube(source, tmp_path / "o.npy", settings, resume=True)
    assert names(tmp_path) == ["c.npy", "o.npy", "o.npy.json"]


def test_bad_slice_after_resume_keeps_the_finished_ones(tmp_path: Path, weights: Path) -> None:
    """NaN in the last slice, found by a resumed run: the work of the first run stays."""
    cube = field()
    cube[1, 1, 2] = np.nan
    source, settings = save(tmp_path / "c.npy", cube), settings_of(weights)
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, tmp_path / "o.npy", settings, on_slice=StopAfter(2))
    before = names(tmp_path)
    with pytest.raises(ValueError, match="slice 2"):
        upscale_cube(source, tmp_path / "o.npy", settings, resume=True)
    assert names(tmp_path) == before


def test_zssr_resumes_to_the_same_bytes(tmp_path: Path) -> None:
    source = save(tmp_path / "c.npy", field((17, 16, 2)))
    settings = UpscaleSettings(
        scale=(2.0, 2.0), method=Method.ZSSR, precision=Precision.FP32,
        zssr=ZssrSettings(iterations_max=4, self_ensemble=False),
    )  # fmt: skip
    upscale_cube(source, tmp_path / "whole.npy", settings)
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, tmp_path / "broken.npy", settings, on_slice=StopAfter(1))
    upscale_cube(source, tmp_path / "broken.npy", settings, resume=True)
    assert (tmp_path / "broken.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_interrupted_image_resumes(tmp_path: Path, weights: Path, dtype: str) -> None:
    source = save(tmp_path / "c.png", field((H, W, 1), dtype)[..., 0])
    settings = settings_of(weights)
    upscale_cube(source, tmp_path / "whole.png", settings)
    with pytest.raises(KeyboardInterrupt):
        upscale_cube(source, tmp_path / "broken.png", settings, on_slice=StopAfter(1))
    assert not (tmp_path / "broken.png").exists()
    upscale_cube(source, tmp_path / "broken.png", settings, resume=True)
    assert (tmp_path / "broken.png").read_bytes() == (tmp_path / "whole.png").read_bytes()


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("done", [0, 1])
def test_a_second_run_of_one_name_is_refused(
    tmp_path: Path, resume: bool, done: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """At any moment of the first, which ends with its own bytes."""
    source, target = save(tmp_path / "c.npy", field()), tmp_path / "o.npy"
    options = ("--scale", 2, "--method", "spline", "--overwrite")
    assert upscale(source, *options, "-o", tmp_path / "whole.npy") == 0
    np.save(target, np.zeros(3))
    settings = UpscaleSettings(scale=(2.0, 2.0), method=Method.SPLINE, precision=Precision.FP32)
    more = ("--resume",) if resume else ()

    def again(*_: Any) -> None:
        if len(ticker.calls) == done:
            before = names(tmp_path)
            assert upscale(source, *options, "--slices", "1:3", "-o", target, *more) == 4
            assert "o.npy: another run is writing it" in capfd.readouterr().err
            assert names(tmp_path) == before
        ticker(*_)

    ticker = StopAfter(-1)
    upscale_cube(source, target, settings, overwrite=True, on_slice=again)
    assert target.read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert "o.npy.journal" not in names(tmp_path)


def test_resume_while_the_first_run_lays_out_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """There is an old result, a journal and no part: that run has not ended for all that."""
    source, target = save(tmp_path / "c.npy", field()), tmp_path / "o.npy"
    options = (source, "--scale", 2, "--method", "spline", "--overwrite", "-o", target)
    assert upscale(*options) == 0

    def create(*arguments: Any, **named: Any) -> Any:
        monkeypatch.undo()
        assert upscale(*options, "--resume") == 4
        assert "another run" in capfd.readouterr().err
        return create_cube(*arguments, **named)

    monkeypatch.setattr("mzsr_cli.pipeline.upscale.create_cube", create)
    assert upscale(*options) == 0
    assert names(tmp_path) == ["c.npy", "o.npy", "o.npy.json"]


KILLED = """
import os, signal, sys
from mzsr_cli.cli import main, show
def die(self, done, count, report):
    if done == 2:
        os.kill(os.getpid(), signal.SIGKILL)
show.UpscaleTicker.slice = die
main.run(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["c.npy", "c_v73.mat", "c.tif", "c.zarr"])
def test_killed_process_resumes(tmp_path: Path, weights: Path, name: str) -> None:
    source = save(tmp_path / name, field())
    options = ["--scale", "2", "--weights", str(weights), "--steps", "3", "--precision", "fp32"]
    target, whole = tmp_path / f"o{source.suffix}", tmp_path / f"whole{source.suffix}"
    command = ["upscale", str(source), *options]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command, "-o", str(target)])
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists() and target.with_name(target.name + ".part").exists()
    for more in (["-o", str(target), "--resume", "--json"], ["-o", str(whole)]):
        ran = subprocess.run(
            [sys.executable, "-m", "mzsr_cli.cli.main", *command, *more],
            capture_output=True, text=True,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        if "--json" in more:
            assert len(json.loads(ran.stdout)["results"][0]["slice_reports"]) == S
    assert digest(target) == digest(whole)
