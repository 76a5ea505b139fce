"""``mzsr merge``: parts made with ``--slices`` become the bytes of one run, or an error."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from cube_files import digest
from upscale_files import content, field, names, run, save, tiny_weights, upscale

from mzsr_cli.cubes.journal import Journal
from mzsr_cli.pipeline.merge import listed

SHAPE = (17, 13, 7)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


def made(source: Path, target: Path, weights: Path, *more: Any) -> Path:
    """A result of ``mzsr upscale``."""
    options = ("--scale", 2, "--weights", weights, "--steps", 1, "-q", "-o", target)
    assert upscale(source, *options, *more) == 0
    return target


def parts_of(source: Path, folder: Path, weights: Path, *slices: str) -> list[Path]:
    """A part for each of ``slices``."""
    folder.mkdir(exist_ok=True)
    return [
        made(source, folder / f"p{i}{source.suffix}", weights, "--slices", text)
        for i, text in enumerate(slices)
    ]


def merge(*arguments: Any) -> int:
    return run("merge", *arguments)


@pytest.mark.parametrize(
    "name", ["c.npy", "c_v73.mat", "c.mat", "c.zarr", "c.tif", "c.h5", "c.npz"]
)
@pytest.mark.parametrize("slices", [("3:5", "0:3", "5", "6:"), ("2::3", "::3", "1::3")])
def test_the_bytes_of_one_run(
    tmp_path: Path, weights: Path, name: str, slices: tuple[str, ...]
) -> None:
    source = save(tmp_path / name, field(SHAPE, "float32"))
    whole = made(source, tmp_path / f"whole{source.suffix}", weights)
    merged = tmp_path / f"merged{source.suffix}"
    assert merge(*parts_of(source, tmp_path / "parts", weights, *slices), "-o", merged) == 0
    assert digest(merged) == digest(whole)
    once, joined = (json.loads(Path(f"{p}.json").read_text()) for p in (whole, merged))
    assert joined["command"] == "merge" and len(joined["parts"]) == len(slices)
    own = {"command", "parts", "output", "seconds", "merge_seconds", "slice_reports"}
    assert {k: v for k, v in joined.items() if k not in own} == {
        k: v for k, v in once.items() if k not in own
    }
    for a, b in zip(once["slice_reports"], joined["slice_reports"], strict=True):
        assert a | {"seconds": 0} == b | {"seconds": 0}


@pytest.mark.parametrize("mode", ["cube", "warm", "slice"])
def test_parts_that_learned_from_their_own_slices(
    tmp_path: Path, weights: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE, "float32"))
    parts = [
        made(source, tmp_path / f"p{text[0]}.npy", weights, "--slices", text, "--adapt", mode)
        for text in ("0:4", "4:")
    ]
    said = f"merged.npy: --adapt {mode}: each part learned from its own slices"
    assert merge(*parts, "-o", tmp_path / "merged.npy") == 0
    assert (said in capsys.readouterr().err) == (mode != "slice")


@pytest.mark.parametrize("name", ["c.mat", "c_v73.mat"])
def test_other_variables_and_slice_axis(tmp_path: Path, weights: Path, name: str) -> None:
    """A second 3-D variable, odd names and slices along the first axis do not confuse it."""
    more = {"Zother": np.arange(24.0).reshape(2, 3, 4), "t": np.arange(5.0)[None]}
    source = save(tmp_path / name, np.moveaxis(field(SHAPE), 2, 0), **more)
    how = ("--variable", "Hfield", "--slice-axis", 0)
    whole = made(source, tmp_path / "whole.mat", weights, *how)
    parts = [
        made(source, tmp_path / f"p{i}.mat", weights, "--slices", text, *how)
        for i, text in enumerate(["0", "1:6", "6"])
    ]
    assert merge(*parts, "-o", tmp_path / "merged.mat") == 0
    assert digest(tmp_path / "merged.mat") == digest(whole)
    if name == "c.mat":
        assert scipy.io.loadmat(tmp_path / "merged.mat")["Zother"].shape == (2, 3, 4)


def test_single_slices_of_a_mat_file(tmp_path: Path, weights: Path) -> None:
    """MATLAB drops the last axis of one slice."""
    source = save(tmp_path / "c.mat", field((11, 13, 3)), grid=np.eye(4))
    whole = made(source, tmp_path / "whole.mat", weights)
    parts = parts_of(source, tmp_path / "parts", weights, "2", "0", "1")
    assert merge(*parts, "-o", tmp_path / "merged.mat") == 0
    assert digest(tmp_path / "merged.mat") == digest(whole)


def test_another_format_and_some_slices(tmp_path: Path, weights: Path) -> None:
    """--slices of merge; the result is known to a resumed run, and can be a part again."""
    source = save(tmp_path / "c.npy", field(SHAPE))
    parts = parts_of(source, tmp_path / "parts", weights, "0:3", "3:7")
    merged, whole = tmp_path / "merged.tif", tmp_path / "whole.tif"
    assert merge(*parts, "-o", merged, "--slices", "1:6", "-q") == 0
    assert digest(merged) == digest(made(source, whole, weights, "--slices", "1:6"))
    made(source, merged, weights, "--slices", "1:6", "--resume")
    last = made(source, tmp_path / "last.npy", weights, "--slices", "6")
    assert merge(merged, last, "-o", tmp_path / "again.npy", "--slices", "1:7") == 0


def test_folder_glob_and_json(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    parts_of(source, tmp_path / "parts", weights, "0:3", "3:7")
    for i, what in enumerate((tmp_path / "parts", tmp_path / "parts" / "p*.npy")):
        capfd.readouterr()
        assert merge(what, "-o", tmp_path / f"m{i}.npy", "--json") == 0
        out, err = capfd.readouterr()
        assert json.loads(out)["results"][0]["slices"] == [0, 7, 1]
        assert "34x26x7" in err and "2 parts" in err


@pytest.mark.parametrize(
    ("slices", "named"),
    [
        (("0:2", "5"), ["2:5, 6", "--slices"]),
        (("1:7",), ["slices 0 ", "--slices"]),
        (("0:4", "2:7"), ["2:4", "both hold", "p0.npy", "p1.npy"]),
        (("0:7", "0:7"), ["0:7", "both hold"]),
    ],
)
def test_slices_that_do_not_fit(
    tmp_path: Path, weights: Path, slices: tuple[str, ...], named: list[str],
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = save(tmp_path / "c.npy", field(SHAPE))
    parts = parts_of(source, tmp_path / "parts", weights, *slices)
    assert merge(*parts, "-o", tmp_path / "m.npy") == 3
    err = capfd.readouterr().err
    assert all(text in err for text in named), err
    assert names(tmp_path) == ["c.npy", "parts"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("--steps", 2), "steps"),
        (("--seed", 1), "seed"),
        (("--scale", 3), "scale"),
        (("--out-dtype", "float32"), "dtype"),
        (("--kernel", "gaussian:0.5"), "kernel"),
    ],
)
def test_other_settings(
    tmp_path: Path, weights: Path, changed: tuple[Any, ...], named: str,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    source = save(tmp_path / "c.npy", field(SHAPE))
    first = made(source, tmp_path / "a.npy", weights, "--slices", "0:3")
    second = made(source, tmp_path / "b.npy", weights, "--slices", "3:7", *changed)
    assert merge(first, second, "-o", tmp_path / "m.npy") == 3
    err = capfd.readouterr().err
    assert named in err and "b.npy" in err and "a.npy" in err
    assert "m.npy" not in names(tmp_path)


def test_other_weights_and_another_input(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    other = save(tmp_path / "d.npy", field(SHAPE, seed=3))
    first = made(source, tmp_path / "a.npy", weights, "--slices", "0:3")
    second = made(other, tmp_path / "b.npy", weights, "--slices", "3:7")
    assert merge(first, second, "-o", tmp_path / "m.npy") == 3
    assert "input_identity" in capfd.readouterr().err
    tiny = tiny_weights(tmp_path / "t.safetensors", seed=5)
    third = made(source, tmp_path / "e.npy", tiny, "--slices", "3:7")
    assert merge(first, third, "-o", tmp_path / "m.npy") == 3
    assert "weights" in capfd.readouterr().err


def test_copies_of_one_input(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Each part may be made from a copy of its own, of another time, but not of other samples."""
    source = save(tmp_path / "c.npy", field(SHAPE))
    whole = made(source, tmp_path / "whole.npy", weights)
    copy, merged = tmp_path / "copy.npy", tmp_path / "m.npy"
    copy.write_bytes(source.read_bytes())
    os.utime(copy, (1, 1))
    first = made(source, tmp_path / "a.npy", weights, "--slices", "0:3")
    second = made(copy, tmp_path / "b.npy", weights, "--slices", "3:7")
    assert merge(first, second, "-o", merged) == 0
    assert merged.read_bytes() == whole.read_bytes()
    cube = field(SHAPE)
    cube[0, 0, 0] += 1
    save(copy, cube)
    second = made(copy, second, weights, "--slices", "3:7", "--overwrite")
    assert merge(first, second, "-o", merged, "--overwrite") == 3
    assert "input_identity.first" in capfd.readouterr().err


def test_a_target_that_another_run_writes(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    parts = parts_of(source, tmp_path / "parts", weights, "0:3", "3:7")
    target = tmp_path / "m.npy"
    with Journal(tmp_path / "m.npy.journal"):
        (tmp_path / "m.npy.part").write_text("theirs")
        before = content(tmp_path)
        assert merge(*parts, "-o", target) == 4
        assert "m.npy: another run is writing it" in capfd.readouterr().err
        assert content(tmp_path) == before
    assert merge(*parts, "-o", target) == 0
    assert names(tmp_path) == ["c.npy", "m.npy", "m.npy.json", "parts"]


def test_provenance_that_is_missing_or_wrong(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    first, second = parts_of(source, tmp_path / "parts", weights, "0:3", "3:7")
    beside = second.with_name("p1.npy.json")
    good = beside.read_text()
    record = json.loads(good)
    bad = [
        (None, "not beside it"),
        ("{", "not readable"),
        ("[]", "not readable"),
        ("{}", "not readable"),
        (json.dumps(record | {"command": "degrade"}), "does not tell"),
        (json.dumps(record | {"slices": [3, 6, 1]}), "does not tell"),
        (json.dumps(record | {"dtype": "float32"}), ""),
        (json.dumps(record | {"settings": None}), "not readable"),
    ]
    for text, named in bad:
        beside.unlink(missing_ok=True)
        if text is not None:
            beside.write_text(text)
        assert merge(first, second, "-o", tmp_path / "m.npy") == 3
        err = capfd.readouterr().err
        assert named in err and "p1.npy" in err
    beside.write_text(good)
    np.save(second, np.zeros((34, 26, 3)))
    before = content(tmp_path)
    assert merge(first, second, "-o", tmp_path / "m.npy") == 3
    assert "provenance says 34x26x4" in capfd.readouterr().err
    assert content(tmp_path) == before


def test_outputs_that_are_there(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.npy", field(SHAPE))
    parts = parts_of(source, tmp_path / "parts", weights, "0:3", "3:7")
    target = tmp_path / "m.npy"
    assert merge(*parts, "-o", target) == 0
    assert merge(*parts, "-o", target) == 2
    assert "--overwrite" in capfd.readouterr().err
    assert merge(*parts, "-o", target, "--overwrite") == 0
    assert merge(*parts, "-o", parts[0], "--overwrite") == 2
    assert "is a part itself" in capfd.readouterr().err
    assert merge(*parts, "-o", tmp_path / "m.xyz") == 2
    assert merge(tmp_path / "none.npy", "-o", tmp_path / "n.npy") == 3
    assert names(tmp_path) == ["c.npy", "m.npy", "m.npy.json", "parts"]


def test_images_are_refused(
    tmp_path: Path, weights: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = save(tmp_path / "c.png", field((*SHAPE[:2], 1), "uint8")[..., 0])
    part = made(source, tmp_path / "p.png", weights)
    assert merge(part, "-o", tmp_path / "m.png") == 3
    assert "one slice" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("slices", "text"), [([], ""), ([5], "5"), ([3, 4, 5, 8], "3:6, 8"), ([2, 0], "0, 2")]
)
def test_listed(slices: list[int], text: str) -> None:
    assert listed(slices) == text
