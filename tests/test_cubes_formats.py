"""Every format: round trips, independent readers and writers, order, resume."""

from __future__ import annotations

import io
import struct
import time

import h5py
import hdf5storage
import numpy as np
import pymatreader
import pytest
import scipy.io
import tifffile
import zarr
from cube_files import DTYPES, FLOATS, INTS, SHAPE, digest, make_cube, read_all, write_cube
from PIL import Image

from mzsr_cli import settings
from mzsr_cli.cubes.cube import CubeInfo, CubeReader, CubeWriter
from mzsr_cli.cubes.open import create_cube, list_variables, open_cube, output_format
from mzsr_cli.errors import InputError, ResumeError, UsageError

NAMES = ["c5.mat", "c73.mat", "c.h5", "c.npy", "c.npz", "c.zarr", "c.tif"]


def like_for(name, tmp_path, **facts):
    """An input's info that makes ``create_cube`` choose the format the name stands for."""
    kind = {"c73.mat": "mat73", "c5.mat": "mat5"}.get(name, "npy")
    shape, dtype = (1, 1, 1), np.dtype("f4")
    return CubeInfo(tmp_path / "in", kind, "H", shape, dtype, **facts)


def stored_dtype(name, dtype):
    return "float32" if name.endswith(".mat") and dtype == "float16" else dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_read_inverts_write(tmp_path, name, dtype):
    cube = make_cube(dtype)
    writer = write_cube(tmp_path / name, cube, like=like_for(name, tmp_path))
    with open_cube(tmp_path / name) as reader:
        assert isinstance(reader, CubeReader) and isinstance(writer, CubeWriter)
        assert reader.info.shape == SHAPE
        assert reader.info.dtype == np.dtype(stored_dtype(name, dtype)) == writer.dtype
        assert reader.info.is_complex == (np.dtype(dtype).kind == "c")
        assert reader.info.format == writer.format
        plane = reader.read(1)
        assert plane.flags.c_contiguous and plane.flags.owndata and plane.flags.writeable
        np.testing.assert_array_equal(read_all(reader), cube)


@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_slice_axis_is_kept(tmp_path, name, slice_axis):
    cube = make_cube("complex64")
    like = like_for(name, tmp_path, slice_axis=slice_axis)
    write_cube(tmp_path / name, cube, like=like)
    with open_cube(tmp_path / name, slice_axis=slice_axis) as reader:
        np.testing.assert_array_equal(read_all(reader), cube)
    with open_cube(tmp_path / name) as reader:
        np.testing.assert_array_equal(read_all(reader), np.moveaxis(cube, 2, slice_axis))


@pytest.mark.parametrize("dtype", ["float64", "complex64", "int16"])
@pytest.mark.parametrize("slice_axis", [0, 1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_slices_of_one_column_are_all_kept(tmp_path, name, slice_axis, dtype):
    """MATLAB drops the last axis of 1; the slices lie on another one, and in a resumed run too."""
    cube = make_cube(dtype, (4, 1, 3))
    options = {"like": like_for(name, tmp_path, slice_axis=slice_axis)}
    part = tmp_path / (name + ".part")
    first = create_cube(part, cube.shape, cube.dtype, **options)
    first.write(2, cube[..., 2])
    first.flush()
    del first  # never closed, as after a kill
    with create_cube(part, cube.shape, cube.dtype, resume=True, **options) as second:
        for k in (0, 1):
            second.write(k, cube[..., k])
        for k in range(3):
            np.testing.assert_array_equal(second.read(k), cube[..., k])
    part.rename(tmp_path / name)
    stored = np.moveaxis(cube, 2, slice_axis)
    with open_cube(tmp_path / name) as reader:
        np.testing.assert_array_equal(read_all(reader), stored)
    if name == "c5.mat":
        loaded = scipy.io.loadmat(tmp_path / name)["H"]
        np.testing.assert_array_equal(loaded, stored[..., 0] if slice_axis < 2 else stored)


@pytest.mark.parametrize("name", NAMES)
def test_two_dimensional_array_is_one_slice(tmp_path, name):
    cube = make_cube("float64", (5, 37, 1))
    write_cube(tmp_path / name, cube, like=like_for(name, tmp_path, ndim=2))
    with open_cube(tmp_path / name) as reader:
        assert reader.info.shape == (5, 37, 1) and reader.info.ndim == 2
        np.testing.assert_array_equal(reader.read(0), cube[..., 0])
    (found,) = list_variables(tmp_path / name)
    assert found.shape == (5, 37)


@pytest.mark.parametrize("name", NAMES)
def test_one_slice_of_three_axes(tmp_path, name):
    cube = make_cube("float32", (5, 37, 1))
    write_cube(tmp_path / name, cube, like=like_for(name, tmp_path))
    with open_cube(tmp_path / name) as reader:
        np.testing.assert_array_equal(read_all(reader), cube)


@pytest.mark.parametrize("dtype", ["complex128", "int16"])
@pytest.mark.parametrize("name", NAMES)
def test_order_of_writes_does_not_change_bytes(tmp_path, name, dtype):
    cube = make_cube(dtype)
    like = like_for(name, tmp_path)
    carried = {"t": np.arange(4.0), "s": "text"}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_cube(tmp_path / "a" / name, cube, [0, 1, 2], like=like, carried=carried)
    write_cube(tmp_path / "b" / name, cube, [2, 0, 1], like=like, carried=carried)
    assert digest(tmp_path / "a" / name) == digest(tmp_path / "b" / name)


@pytest.mark.parametrize("name", NAMES)
def test_resume_gives_the_same_bytes(tmp_path, name):
    cube = make_cube("complex128")
    options = {"like": like_for(name, tmp_path), "carried": {"t": np.arange(4.0)}}
    (tmp_path / "whole").mkdir()
    write_cube(tmp_path / "whole" / name, cube, **options)
    part = tmp_path / (name + ".part")
    first = create_cube(part, SHAPE, cube.dtype, **options)
    first.write(2, cube[..., 2])
    first.flush()
    del first  # never closed, as after a kill
    second = create_cube(part, SHAPE, cube.dtype, resume=True, **options)
    np.testing.assert_array_equal(second.read(2), cube[..., 2])
    second.write(0, cube[..., 0])
    second.write(1, cube[..., 1])
    second.close()
    second.close()
    assert digest(part) == digest(tmp_path / "whole" / name)
    third = create_cube(part, SHAPE, cube.dtype, resume=True, **options)
    third.close()
    assert digest(part) == digest(tmp_path / "whole" / name)


@pytest.mark.parametrize("name", NAMES)
def test_resume_refuses_another_cube(tmp_path, name):
    like = like_for(name, tmp_path)
    part = tmp_path / (name + ".part")
    with pytest.raises(ResumeError, match="missing"):
        create_cube(part, SHAPE, "f4", like=like, resume=True)
    create_cube(part, SHAPE, "f4", like=like).close()
    before = digest(part)
    for shape, dtype in [((5, 36, 3), "f4"), (SHAPE, "f8"), ((5, 37, 4), "f4")]:
        with pytest.raises(ResumeError, match="without --resume"):
            create_cube(part, shape, np.dtype(dtype), like=like, resume=True)
    assert digest(part) == before


@pytest.mark.parametrize("name", [*NAMES, "c.png"])
def test_writer_refuses_what_does_not_fit(tmp_path, name):
    shape = (5, 37, 1)
    writer = create_cube(tmp_path / name, shape, "uint8", like=like_for(name, tmp_path))
    with pytest.raises(ValueError, match="5x36"):
        writer.write(0, np.zeros((5, 36), np.uint8))
    with pytest.raises(ValueError, match="complex"):
        writer.write(0, np.zeros((5, 37), np.complex64))
    with pytest.raises(IndexError):
        writer.write(1, np.zeros((5, 37), np.uint8))
    writer.write(0, np.zeros((5, 37), np.uint8))
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.write(0, np.zeros((5, 37), np.uint8))
    with open_cube(tmp_path / name) as reader, pytest.raises(IndexError):
        reader.read(1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_scipy_reads_our_v5(tmp_path, dtype):
    cube = make_cube(dtype)
    carried = {"t": np.arange(4.0), "name": "hello", "flag": np.array([[True]]), "c": {"a": 1.0}}
    writer = write_cube(tmp_path / "c.mat", cube, variable="H", carried=carried)
    assert writer.format == "mat5"
    loaded = scipy.io.loadmat(tmp_path / "c.mat")
    np.testing.assert_array_equal(loaded["H"], cube)
    np.testing.assert_array_equal(loaded["t"], [np.arange(4.0)])
    assert loaded["name"] == ["hello"] and loaded["c"]["a"][0, 0] == 1
    assert (tmp_path / "c.mat").read_bytes()[124:128] == b"\x00\x01IM"


@pytest.mark.parametrize("name", ["H", "four", "channel_of_42_paths"])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 3, 2), (2, 3, 5)])
def test_v5_elements_of_any_size(tmp_path, shape, name):
    for dtype in ("uint8", "int16", "complex64"):
        cube = make_cube(dtype, shape)
        write_cube(tmp_path / "c.mat", cube, variable=name, carried={"after": "x"})
        loaded = scipy.io.loadmat(tmp_path / "c.mat")
        np.testing.assert_array_equal(loaded[name], cube)
        assert loaded["after"] == ["x"]


@pytest.mark.parametrize("dtype", ["double", "single", "complex", "int16", "compact"])
@pytest.mark.parametrize("compress", [False, True])
def test_we_read_scipys_v5(tmp_path, dtype, compress):
    numpy = {"double": "f8", "single": "f4", "complex": "c16", "int16": "i2", "compact": "u1"}
    cube = make_cube(numpy[dtype])
    values = {"t": np.ones((1, 150)), "name": "abc", "H": cube}
    scipy.io.savemat(tmp_path / "c.mat", values, do_compression=compress)
    with open_cube(tmp_path / "c.mat") as reader:
        assert reader.info.variable == "H"
        np.testing.assert_array_equal(read_all(reader), cube)
        assert set(reader.carried()) == {"t", "name"}


def test_we_read_v4(tmp_path):
    scipy.io.savemat(tmp_path / "c.mat", {"a": make_cube("f8")[..., 0]}, format="4")
    with open_cube(tmp_path / "c.mat") as reader:
        assert reader.info.shape == (5, 37, 1)


@pytest.mark.parametrize("dtype", [d for d in DTYPES if d != "float16"])
def test_others_read_our_v73(tmp_path, dtype):
    cube = make_cube(dtype)
    carried = {"t": np.arange(4.0), "name": "hello", "flag": np.array([[True]]), "c": {"a": 1.0}}
    path = tmp_path / "c73.mat"
    writer = write_cube(
        path, cube, variable="H", carried=carried, like=like_for("c73.mat", tmp_path)
    )
    assert writer.format == "mat73" and writer.notes == []
    loaded = hdf5storage.loadmat(str(path))
    np.testing.assert_array_equal(loaded["H"], cube)
    assert loaded["H"].dtype == cube.dtype
    np.testing.assert_array_equal(loaded["t"], [np.arange(4.0)])
    assert loaded["name"].item() == "hello"
    other = pymatreader.read_mat(path)
    assert other["name"] == "hello" and other["c"] == {"a": 1.0} and bool(other["flag"])
    np.testing.assert_array_equal(other["H"], cube)
    head = path.read_bytes()[:128]
    assert head.startswith(b"MATLAB 7.3 MAT-file, Platform: ")
    assert b"HDF5 schema 1.00 ." in head and head[124:] == b"\x00\x02IM"
    with h5py.File(path) as file:
        assert file.userblock_size == 512 and file["H"].shape == SHAPE[::-1]
        kind = file["H"].attrs.get_id("MATLAB_class").get_type()
        assert not kind.is_variable_str()
        if cube.dtype.kind == "c":
            assert file["H"].dtype.names == ("real", "imag")


@pytest.mark.parametrize("dtype", ["f8", "f4", "c16", "c8", "u2", "i4"])
@pytest.mark.parametrize("compress", [False, True])
def test_we_read_hdf5storages_v73(tmp_path, dtype, compress):
    cube = make_cube(dtype)
    path = tmp_path / "c.mat"
    hdf5storage.savemat(
        str(path),
        {"H": cube, "name": "abc", "t": np.arange(4.0)[None]},
        format="7.3",
        compress=compress,
        compress_size_threshold=0,
        store_python_metadata=False,
    )
    with open_cube(path) as reader:
        assert reader.info.format == "mat73" and reader.info.variable == "H"
        np.testing.assert_array_equal(read_all(reader), cube)
        carried = reader.carried()
    np.testing.assert_array_equal(carried["t"], [np.arange(4.0)])
    assert carried["name"].item() == "abc"


def test_v73_carries_over_what_it_read(tmp_path):
    cells = np.empty((1, 2), object)
    cells[0, 0], cells[0, 1] = "inner", np.array([[1 + 2j]])
    nest = np.empty((1, 1), object)
    nest[0, 0] = cells
    carried = {
        "z": np.array([[1 + 2j, 3]]),
        "flag": np.array([[True, False]]),
        "rows": np.array(["ab", "cde"]),
        "empty": np.zeros((0, 3)),
        "st": {"a": np.float32(1), "b": {"c": "deep"}},
        "nest": nest,
        "half": np.ones((2, 2), np.float16),
        "2bad": 1.0,
        "date": np.array(["2020-01-01"], "M8[D]"),
    }
    like = like_for("c73.mat", tmp_path)
    writer = write_cube(tmp_path / "a.mat", make_cube("f4"), like=like, carried=carried)
    assert sorted(note.split("'")[1] for note in writer.notes) == ["2bad", "date"]
    with open_cube(tmp_path / "a.mat") as reader:
        once = reader.carried()
        like = reader.info
        assert reader.notes == []
    assert once["nest"][0, 0][0, 0].item() == "inner" and once["nest"][0, 0][0, 1] == 1 + 2j
    assert once["st"]["b"]["c"].item() == "deep" and once["flag"].dtype == bool
    assert once["empty"].shape == (0, 3) and once["rows"][1] == "cde"
    write_cube(tmp_path / "b.mat", make_cube("f4"), like=like, carried=once)
    with h5py.File(tmp_path / "a.mat") as a, h5py.File(tmp_path / "b.mat") as b:
        assert set(a) == set(b)
    loaded = hdf5storage.loadmat(str(tmp_path / "b.mat"))
    np.testing.assert_array_equal(loaded["z"], carried["z"])


def test_too_big_for_v5_becomes_v73_and_says_so(tmp_path, monkeypatch):
    cube = make_cube("f8")
    scipy.io.savemat(tmp_path / "in.mat", {"H": cube, "s": {"a": 1.0}, "name": "x"})
    monkeypatch.setattr(settings, "MAT5_LIMIT", cube.nbytes)
    with open_cube(tmp_path / "in.mat") as reader:
        writer = write_cube(tmp_path / "out.mat", cube, like=reader.info, carried=reader.carried())
    assert writer.format == "mat73" and any("v7.3" in note for note in writer.notes)
    other = pymatreader.read_mat(tmp_path / "out.mat")
    np.testing.assert_array_equal(other["H"], cube)
    assert other["s"] == {"a": 1.0} and other["name"] == "x"


@pytest.mark.parametrize("dtype", DTYPES)
def test_others_read_the_rest(tmp_path, dtype):
    cube = make_cube(dtype)
    for name in ("c.h5", "c.npy", "c.npz", "c.zarr", "c.tif"):
        write_cube(tmp_path / name, cube)
    with h5py.File(tmp_path / "c.h5") as file:
        np.testing.assert_array_equal(file["cube"][()], cube)
    np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), cube)
    np.testing.assert_array_equal(np.load(tmp_path / "c.npz")["cube"], cube)
    array = zarr.open_array(tmp_path / "c.zarr", mode="r")
    assert array.metadata.zarr_format == 3 and array.chunks == (5, 37, 1)
    np.testing.assert_array_equal(array[...], cube)
    np.testing.assert_array_equal(np.moveaxis(tifffile.imread(tmp_path / "c.tif"), 0, 2), cube)


def test_we_read_others_hdf5(tmp_path):
    cube = make_cube("c8")
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("g/zipped", data=cube, chunks=(2, 8, 2), compression="gzip")
        file["g/big"] = cube.real.astype(">f8")
        file["note"] = "text"
    with open_cube(tmp_path / "c.h5", "g/zipped") as reader:
        np.testing.assert_array_equal(read_all(reader), cube)
    with open_cube(tmp_path / "c.h5", "/g/big", slice_axis=0) as reader:
        assert reader.info.shape == (37, 3, 5)
        np.testing.assert_array_equal(read_all(reader), np.moveaxis(cube.real, 0, 2))
        like = reader.info
    write_cube(tmp_path / "out.h5", make_cube("f8", (37, 3, 5)), like=like)
    assert list_variables(tmp_path / "out.h5")[0].name == "g/big"
    assert list_variables(tmp_path / "out.h5")[0].shape == SHAPE


def test_hdf5_slices_above_the_chunk_limit(tmp_path, monkeypatch):
    monkeypatch.setattr("mzsr_cli.cubes.hdf5._CHUNK", 2 * 37 * 8)
    cube = make_cube("f8")
    writer = write_cube(tmp_path / "c.h5", cube, [1, 0, 2])
    with h5py.File(tmp_path / "c.h5") as file:
        assert file["cube"].chunks == (2, 37, 1)
        np.testing.assert_array_equal(file["cube"][()], cube)
    assert writer.format == "hdf5"


@pytest.mark.parametrize("fortran", [False, True])
def test_we_read_numpys_files(tmp_path, fortran):
    cube = np.asarray(make_cube("f8"), dtype=">f8", order="F" if fortran else "C")
    np.save(tmp_path / "c.npy", cube)
    np.savez(tmp_path / "c.npz", H=cube, t=np.ones(3))
    np.savez_compressed(tmp_path / "z.npz", H=cube)
    for name in ("c.npy", "c.npz", "z.npz"):
        with open_cube(tmp_path / name) as reader:
            assert reader.info.dtype == np.dtype("f8")
            np.testing.assert_array_equal(read_all(reader), cube)


def test_bool_is_read_as_uint8(tmp_path):
    np.save(tmp_path / "c.npy", make_cube("f8") > 0)
    scipy.io.savemat(tmp_path / "c.mat", {"H": make_cube("f8") > 0})
    for name in ("c.npy", "c.mat"):
        with open_cube(tmp_path / name) as reader:
            assert reader.info.dtype == np.uint8
            np.testing.assert_array_equal(read_all(reader), make_cube("f8") > 0)


@pytest.mark.parametrize("version", [2, 3])
def test_we_read_others_zarr(tmp_path, version):
    cube = make_cube("f4")
    group = zarr.open_group(tmp_path / "c.zarr", mode="w", zarr_format=version)
    group.create_array("deep/H", data=cube, chunks=(2, 10, 2))
    with open_cube(tmp_path / "c.zarr") as reader:
        assert reader.info.variable == "deep/H"
        np.testing.assert_array_equal(read_all(reader), cube)
        write_cube(tmp_path / "out.zarr", cube, like=reader.info)
    with open_cube(tmp_path / "out.zarr") as reader:
        assert reader.info.variable == "deep/H"
        np.testing.assert_array_equal(read_all(reader), cube)


def test_we_read_others_tiff(tmp_path):
    cube = make_cube("u2")
    pages = np.ascontiguousarray(np.moveaxis(cube, 2, 0))
    tifffile.imwrite(tmp_path / "ij.tif", pages, imagej=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(tmp_path / "ome.ome.tif", pages, ome=True, metadata={"axes": "ZYX"})
    tifffile.imwrite(
        tmp_path / "big.tif", pages, bigtiff=True, byteorder=">", photometric="minisblack"
    )
    tifffile.imwrite(tmp_path / "zip.tif", pages, compression="zlib", photometric="minisblack")
    tifffile.imwrite(tmp_path / "strips.tif", pages, rowsperstrip=2, photometric="minisblack")
    for name in ("ij.tif", "ome.ome.tif", "big.tif", "zip.tif", "strips.tif"):
        with open_cube(tmp_path / name) as reader:
            np.testing.assert_array_equal(read_all(reader), cube, err_msg=name)
        with open_cube(tmp_path / name, slice_axis=0) as reader:
            np.testing.assert_array_equal(read_all(reader), np.moveaxis(cube, 0, 2))


def test_we_read_tiffs_written_page_by_page(tmp_path):
    cube = make_cube("u2", (20, 37, 3))
    images = [Image.fromarray(cube[..., k]) for k in range(3)]
    images[0].save(tmp_path / "pil.tif", save_all=True, append_images=images[1:])
    for name, big, tile in [("one.tif", False, None), ("big.tif", True, (16, 16))]:
        with tifffile.TiffWriter(tmp_path / name, bigtiff=big) as file:
            for k in range(3):
                file.write(cube[..., k], contiguous=False, metadata=None, tile=tile)
    for name in ("pil.tif", "one.tif", "big.tif"):
        with open_cube(tmp_path / name) as reader:
            np.testing.assert_array_equal(read_all(reader), cube, err_msg=name)


@pytest.mark.parametrize("written", ["appended", "kept open", "compressed"])
def test_we_read_tiffs_written_page_by_page_as_tifffile_does(tmp_path, written):
    """By default each page is an image of its own there; equal ones are a stack, others are not."""
    cube, path = make_cube("f4", (20, 37, 5)), tmp_path / "c.tif"
    more = {"compression": "zlib"} if written == "compressed" else {}
    with tifffile.TiffWriter(path, bigtiff=written == "kept open") as file:
        for k in range(5 if written != "appended" else 1):
            file.write(np.ascontiguousarray(cube[..., k]), **more)
    for k in range(1, 5 if written == "appended" else 1):
        tifffile.imwrite(path, np.ascontiguousarray(cube[..., k]), append=True)
    assert list_variables(path)[0].shape == (20, 37, 5)
    for axis in range(3):
        with open_cube(path, slice_axis=axis) as reader:
            np.testing.assert_array_equal(read_all(reader), np.moveaxis(cube, axis, 2))
    tifffile.imwrite(path, np.zeros((20, 36), np.float32), append=True)
    with pytest.raises(InputError, match="its pages differ in size or type"):
        open_cube(path)


def test_big_tiff_above_four_gigabytes(tmp_path, monkeypatch):
    monkeypatch.setattr("mzsr_cli.cubes.tiff._CLASSIC", 100)
    write_cube(tmp_path / "c.tif", make_cube("f4"))
    with tifffile.TiffFile(tmp_path / "c.tif") as file:
        assert file.is_bigtiff and len(file.pages) == 3


def test_variable_names_that_matlab_refuses_are_changed_and_said(tmp_path):
    writer = write_cube(tmp_path / "c.mat", make_cube("f4"), variable="2 g/H")
    assert list_variables(tmp_path / "c.mat")[0].name == "x2_g_H"
    assert "x2_g_H" in writer.notes[0]


def test_output_format_tells_before_work(tmp_path):
    facts = output_format("c.mat.part", SHAPE, np.dtype("f2"))
    assert (facts.format, facts.dtype, facts.nbytes) == ("mat5", np.dtype("f4"), 5 * 37 * 3 * 4)
    assert "single" in facts.notes[0]
    for name, shape, dtype in [
        ("c.txt", SHAPE, "f4"),
        ("c.png", SHAPE, "u1"),
        ("c.png", (5, 37, 1), "f4"),
        ("c.png", (5, 37, 1), "c8"),
        ("c.jpg", (5, 37, 1), "u1"),
        ("c.npy", SHAPE, "O"),
        ("c.npy", (0, 37, 1), "f4"),
    ]:
        with pytest.raises(UsageError):
            create_cube(tmp_path / name, shape, np.dtype(dtype))
    assert list(tmp_path.iterdir()) == []


def test_dtype_lists_are_whole():
    assert len(INTS) == 8 and len(FLOATS) == 5


def test_classes_of_carried_v5_variables_are_kept(tmp_path):
    """MATLAB packs whole doubles as uint8; they must stay double, and complex ones complex."""
    values = {
        "H": make_cube("c8"),
        "n": np.array([[5.0]]),
        "z": np.array([[1 + 2j]], np.complex64),
        "flag": np.array([[True]]),
        "s": {"n": np.array([[5.0]])},
        "w": {"z": np.array([[1 + 2j]], np.complex64)},
    }
    scipy.io.savemat(tmp_path / "in.mat", values)
    with open_cube(tmp_path / "in.mat") as reader:
        carried, like = reader.carried(), reader.info
        assert reader.notes == ["numbers inside variable 'w' may change their class"]
    write_cube(tmp_path / "out.mat", make_cube("c8"), like=like, carried=carried)
    assert scipy.io.whosmat(tmp_path / "in.mat") == scipy.io.whosmat(tmp_path / "out.mat")
    loaded = scipy.io.loadmat(tmp_path / "out.mat")
    assert loaded["z"] == values["z"] and loaded["w"]["z"][0, 0] == values["z"]
    assert loaded["n"].dtype == np.float64 and loaded["s"]["n"][0, 0].dtype == np.float64


def packed_v5(path, array_class, planes, others=b""):
    """A v5 file of H, of a MATLAB class (and complex with two planes), packed as MATLAB packs what
    fits into uint8; ``others`` are elements after it."""

    def element(kind, data):
        return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)

    flags = array_class | (0x0800 if len(planes) == 2 else 0)
    shape = struct.pack("<3i", *planes[0].shape)
    body = element(6, struct.pack("<II", flags, 0)) + element(5, shape) + element(1, b"H")
    for plane in planes:
        body += element(2, plane.astype(np.uint8).tobytes("F"))
    head = b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + struct.pack("<H", 0x0100) + b"IM"
    path.write_bytes(head + element(14, body) + others)


@pytest.mark.parametrize(
    ("array_class", "dtype"),
    [(8, "i1"), (10, "i2"), (11, "u2"), (12, "i4"), (13, "u4"), (14, "i8")],
)
def test_packed_v5_integers_keep_their_class(tmp_path, array_class, dtype):
    plane = make_cube("u1") // 2
    packed_v5(tmp_path / "c.mat", array_class, [plane])
    with open_cube(tmp_path / "c.mat") as reader:
        assert reader.info.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(read_all(reader), plane)
    other = io.BytesIO()
    scipy.io.savemat(other, {"G": make_cube("f4")})
    packed_v5(tmp_path / "two.mat", array_class, [plane], other.getvalue()[128:])
    with open_cube(tmp_path / "two.mat", "G") as reader:
        assert reader.carried()["H"].dtype == np.dtype(dtype)


@pytest.mark.parametrize("part", ["i1", "u2", ">i4", "i8"])
def test_complex_integers_are_complex128_in_every_mat(tmp_path, part):
    """numpy has none; {real, imag} pairs of v7.3 are read as the two planes of v5 are."""
    cube = make_cube("u1") // 2 + 1j * (make_cube("u1", seed=1) // 2)
    packed_v5(tmp_path / "c5.mat", 10, [cube.real, cube.imag])
    pairs = np.empty(SHAPE[::-1], [("real", part), ("imag", part)])
    pairs["real"], pairs["imag"] = cube.real.T, cube.imag.T
    with h5py.File(tmp_path / "c73.mat", "w", userblock_size=512) as file:
        file["H"], file["G"] = pairs, pairs
        for name in ("H", "G"):
            file[name].attrs["MATLAB_class"] = np.bytes_(np.dtype(part).name)
    for name in ("c5.mat", "c73.mat"):
        with open_cube(tmp_path / name, "H") as reader:
            assert reader.info.dtype == np.complex128
            np.testing.assert_array_equal(read_all(reader), cube)
            if name == "c73.mat":
                np.testing.assert_array_equal(reader.carried()["G"], cube)


@pytest.mark.parametrize("name", NAMES)
def test_bytes_do_not_depend_on_the_time(tmp_path, name):
    cube, like = make_cube("f4"), like_for(name, tmp_path)
    options = {"like": like, "carried": {"t": np.ones(3), "s": {"a": "x"}}}
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    write_cube(tmp_path / "a" / name, cube, **options)
    time.sleep(0.6)
    write_cube(tmp_path / "b" / name, cube, **options)
    assert digest(tmp_path / "a" / name) == digest(tmp_path / "b" / name)
