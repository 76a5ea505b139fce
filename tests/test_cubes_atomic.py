"""Part files, commit and the journal."""

from __future__ import annotations

import ast
import errno
import fcntl
import json
import os
from pathlib import Path

import numpy as np
import pytest
from cube_files import SHAPE, digest, make_cube, read_all, write_cube

import mzsr_cli.cubes
from mzsr_cli.cubes.atomic import AtomicOutput
from mzsr_cli.cubes.journal import Journal, input_identity, journal_header, slice_digest
from mzsr_cli.cubes.open import create_cube, open_cube
from mzsr_cli.errors import OutputError, OutputExistsError, ResourceError, ResumeError


@pytest.mark.parametrize("name", ["c.mat", "c.h5", "c.npy", "c.npz", "c.zarr", "c.tif"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_commit_gives_the_final_name_only_when_whole(tmp_path, name, overwrite):
    cube = make_cube("f8")
    target = tmp_path / name
    if overwrite:
        write_cube(target, make_cube("f4", (2, 3, 4)))
        before = digest(target)
    output = AtomicOutput(target, overwrite, cube.nbytes)
    assert output.part.name == name + ".part" and output.part.parent == tmp_path
    with create_cube(output.part, SHAPE, cube.dtype) as writer:
        writer.write(0, cube[..., 0])
        assert target.exists() == overwrite and (not overwrite or digest(target) == before)
        writer.write(1, cube[..., 1])
        writer.write(2, cube[..., 2])
    assert output.commit() == target
    assert [p.name for p in tmp_path.iterdir()] == [name]
    with open_cube(target) as reader:
        np.testing.assert_array_equal(read_all(reader), cube)
    with pytest.raises(OutputExistsError, match="--overwrite"):
        AtomicOutput(target)


def test_a_stale_part_is_replaced(tmp_path):
    (tmp_path / "c.zarr.part").write_text("old")
    write_cube(tmp_path / "c.zarr.part", make_cube("f4"))
    (tmp_path / "c.npy.part").mkdir()
    write_cube(tmp_path / "c.npy.part", make_cube("f4"))


def test_target_that_appears_meanwhile_is_kept(tmp_path):
    output = AtomicOutput(tmp_path / "c.npy")
    write_cube(output.part, make_cube("f4"))
    output.target.write_text("mine")
    with pytest.raises(OutputExistsError):
        output.commit()
    assert output.target.read_text() == "mine"
    output.discard()
    output.discard()
    assert [p.name for p in tmp_path.iterdir()] == ["c.npy"]


@pytest.mark.parametrize("kind", ["first", "over Zarr", "over a file"])
def test_what_lies_beside_a_zarr_result_is_kept(tmp_path, kind):
    """Also under a name that looks like one of ours."""
    target, beside = tmp_path / "c.zarr", tmp_path / "c.zarr.old"
    beside.mkdir()
    (beside / "mine.txt").write_text("precious")
    if kind == "over Zarr":
        write_cube(target, make_cube("f4"))
    elif kind == "over a file":
        target.write_text("old")
    output = AtomicOutput(target, overwrite=kind != "first")
    write_cube(output.part, make_cube("f8"))
    output.commit()
    with open_cube(target) as reader:
        np.testing.assert_array_equal(read_all(reader), make_cube("f8"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.zarr", "c.zarr.old"]
    assert (beside / "mine.txt").read_text() == "precious"


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="mkdir"):
        AtomicOutput(tmp_path / "gone" / "c.npy")
    (tmp_path / "c.npy").mkdir()
    with pytest.raises(OutputError, match="folder"):
        AtomicOutput(tmp_path / "c.npy", overwrite=True)
    with pytest.raises(ResourceError, match=r"needs 1024.0 TiB of disk, .* are free"):
        AtomicOutput(tmp_path / "d.npy", nbytes=2**50)
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(OutputError, match="permission"):
        AtomicOutput(tmp_path / "d.npy")


def test_full_disk_is_an_output_error(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    for name in ("c.mat", "c.h5", "c.npy", "c.tif"):
        with pytest.raises(OutputError, match="Free some disk space"):
            create_cube(tmp_path / name, SHAPE, "f4")


def test_missing_folder_on_create(tmp_path):
    for name in ("c.mat", "c.h5", "c.npy", "c.npz", "c.tif", "c.png"):
        with pytest.raises(OutputError):
            create_cube(tmp_path / "gone" / name, (5, 37, 1), "u1")


@pytest.fixture
def header(tmp_path):
    np.save(tmp_path / "in.npy", make_cube("f4"))
    with open_cube(tmp_path / "in.npy") as reader:
        info = reader.info
    return lambda **settings: journal_header(info, {"seed": 0, "adapt": {"steps": 10}} | settings)


def test_journal_round_trip(tmp_path, header):
    path, cube = tmp_path / "c.journal", make_cube("f4")
    with Journal.create(path, header()) as journal:
        journal.add(2, cube[..., 2], {"psnr": np.float32(2.5), "ok": True})
        journal.add(0, cube[..., 0])
    with Journal.resume(path, header()) as journal:
        assert journal.finished == {2: {"psnr": 2.5, "ok": True}, 0: {}}
        assert journal.matches(2, cube[..., 2]) and not journal.matches(2, cube[..., 1])
        assert not journal.matches(1, cube[..., 1])
        journal.add(1, cube[..., 1])
    lines = path.read_text().splitlines()
    assert len(lines) == 4 and json.loads(lines[0])["digest"]
    with Journal.resume(path, header()) as journal:
        assert set(journal.finished) == {0, 1, 2}
        journal.remove()
    assert not path.exists()


@pytest.mark.parametrize("torn", [1, 20, "bad line"])
def test_torn_last_line_is_dropped(tmp_path, header, torn):
    path, cube = tmp_path / "c.journal", make_cube("f4")
    with Journal.create(path, header()) as journal:
        for k in range(3):
            journal.add(k, cube[..., k])
    data = path.read_bytes()
    path.write_bytes(data[:-torn] if isinstance(torn, int) else data + b"\0\0\0\n")
    with Journal.resume(path, header()) as journal:
        assert set(journal.finished) == ({0, 1} if isinstance(torn, int) else {0, 1, 2})
        journal.add(2, cube[..., 2])
    assert Journal.resume(path, header()).finished.keys() == {0, 1, 2}


def test_changed_settings_and_input_are_named(tmp_path, header):
    path = tmp_path / "c.journal"
    Journal.create(path, header()).close()
    with pytest.raises(ResumeError, match=r"settings\.adapt\.steps was 10, is 5"):
        Journal.resume(path, header(adapt={"steps": 5}))
    with pytest.raises(ResumeError, match=r"settings\.seed was 0, is 1"):
        Journal.resume(path, header(seed=1))
    np.save(tmp_path / "in.npy", make_cube("f4", seed=1))
    with pytest.raises(ResumeError, match=r"input\.first"):
        Journal.resume(path, header())


def test_damaged_and_missing_journals(tmp_path, header):
    path = tmp_path / "c.journal"
    with pytest.raises(ResumeError, match="no journal"):
        Journal.resume(path, header())
    assert not path.exists()
    for text in ("", '{"input": ', "x\ny\nz\n", "[1]\n{}\n"):
        path.write_text(text)
        with pytest.raises(ResumeError, match="without --resume"):
            Journal.resume(path, header())
    path.write_text(json.dumps(header()) + '\n{"k": "x"}\n{}\n')
    with pytest.raises(ResumeError, match="without --resume"):
        Journal.resume(path, header())


def test_an_open_journal_refuses_other_runs(tmp_path, header):
    path, cube = tmp_path / "c.npy.journal", make_cube("f4")
    with Journal.create(path, header()) as journal:
        journal.add(0, cube[..., 0])
        before = path.read_bytes()
        for begin in (Journal.create, Journal.resume):
            with pytest.raises(OutputError, match=r"c\.npy: another run .*\.journal is locked.*-o"):
                begin(path, header())
        assert path.read_bytes() == before
        assert not os.get_inheritable(journal._file.fileno())
        journal.add(1, cube[..., 1])
    with Journal.resume(path, header()) as journal:
        assert set(journal.finished) == {0, 1}
        journal.remove()
    Journal.create(path, header()).close()


def test_a_failed_resume_leaves_no_lock(tmp_path, header):
    path = tmp_path / "c.journal"
    Journal.create(path, header()).close()
    with pytest.raises(ResumeError) as kept:
        Journal.resume(path, header(seed=1))
    assert kept.value and not Journal.resume(path, header()).finished


def test_a_lock_on_a_deleted_journal_is_none(tmp_path, header, monkeypatch):
    """The run that held the journal deletes it between this one's opening and locking it."""
    path, flock = tmp_path / "c.journal", fcntl.flock

    def late(*arguments):
        monkeypatch.undo()
        path.unlink()
        flock(*arguments)

    path.touch()
    monkeypatch.setattr(fcntl, "flock", late)
    with Journal(path), pytest.raises(OutputError, match="another run"):
        Journal(path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, None])
def test_systems_without_locks(tmp_path, header, monkeypatch, code):
    def without(*_):
        raise OSError(code, os.strerror(code))

    if code is None:
        monkeypatch.setattr("mzsr_cli.cubes.journal.fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", without)
    path, cube = tmp_path / "c.journal", make_cube("f4")
    with Journal.create(path, header()) as journal:
        journal.add(0, cube[..., 0])
    with Journal.resume(path, header()) as journal:
        assert set(journal.finished) == {0}
        journal.remove()
    assert not path.exists()


def test_identity_of_a_folder_changes_with_its_files(tmp_path):
    write_cube(tmp_path / "c.zarr", make_cube("f4"))
    with open_cube(tmp_path / "c.zarr") as reader:
        before = input_identity(reader.info)
        assert input_identity(reader.info) == before
        (tmp_path / "c.zarr" / "c" / "0" / "0" / "1").write_bytes(b"")
        assert input_identity(reader.info) != before


def test_cubes_import_nothing_from_above():
    allowed = {"errors", "settings", "cubes"}
    for file in Path(mzsr_cli.cubes.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [f"{node.module}" for _ in [0] if isinstance(node, ast.ImportFrom)]
            for name in names:
                assert name.split(".")[0] not in {"torch", "click", "rich"}, file
                if name.startswith("mzsr_cli."):
                    assert name.split(".")[1] in allowed, file


def test_digest_does_not_depend_on_strides(rng: np.random.Generator) -> None:
    plane = rng.random((601, 37)) + 1j
    assert slice_digest(np.asfortranarray(plane)) == slice_digest(plane)
    assert slice_digest(plane[::-1]) != slice_digest(plane)
