"""Bad input, choice of the variable, names and folders."""

from __future__ import annotations

import contextlib
import io
import pickle
import re
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import scipy.io
import scipy.sparse
import tifffile
import zarr
from cube_files import SHAPE, make_cube, write_cube
from PIL import Image

from mzsr_cli.cubes import checks
from mzsr_cli.cubes.cube import CubeInfo
from mzsr_cli.cubes.open import (
    expand_inputs,
    is_cube_file,
    list_variables,
    open_cube,
)
from mzsr_cli.errors import InputError, MissingInputError, MzsrError, ResourceError, UsageError
from mzsr_cli.pipeline.info import cube_info

FILES = ["c5.mat", "z5.mat", "c73.mat", "c.h5", "c.npy", "c.npz", "z.npz", "c.tif", "c.png"]


def make_file(path):
    cube = make_cube("f8")
    if path.name == "z5.mat":
        scipy.io.savemat(path, {"H": cube}, do_compression=True)
    elif path.name == "z.npz":
        np.savez_compressed(path, H=cube)
    elif path.name == "c.png":
        Image.fromarray(make_cube("uint8", (40, 37, 3))).save(path)
    else:
        like = CubeInfo(path, "mat73" if "73" in path.name else "npy", "H", SHAPE, cube.dtype)
        write_cube(path, cube, like=like)


def one_clear_line(error, path):
    text = str(error.value)
    assert "\n" not in text and str(path) in text and text.endswith((".", ")", "]'", "'"))


def read_through(path):
    with open_cube(path) as reader:
        for k in range(reader.info.shape[2]):
            reader.read(k)
        reader.carried()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("part", [0.0, 0.02, 0.3, 0.6, 0.97])
def test_truncated_files(tmp_path, name, part):
    path = tmp_path / name
    make_file(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError) as error:
        read_through(path)
    one_clear_line(error, path)
    assert list(tmp_path.iterdir()) == [path]


def make_tiff(path, pages, kind):
    """Write ``pages`` (slices first) as the ``kind`` of stack."""
    options = {
        "big": {"bigtiff": True, "photometric": "minisblack"},
        "imagej": {"imagej": True},
        "complex": {"photometric": "minisblack"},
        "zlib": {"compression": "zlib", "photometric": "minisblack"},
    }
    if kind == "ours":
        write_cube(path, np.moveaxis(pages, 0, 2))
    elif kind == "page by page":
        images = [Image.fromarray(page) for page in pages]
        images[0].save(path, save_all=True, append_images=images[1:])
    else:
        tifffile.imwrite(path, pages, **options[kind])


@pytest.mark.parametrize("kind", ["ours", "page by page", "big", "imagej", "complex", "zlib"])
def test_truncated_tiffs_never_lose_slices(tmp_path, kind, caplog):
    """tifffile only logs that a page is cut off, and shows the ones before it."""
    path, pages = tmp_path / "c.tif", make_cube("c8" if kind == "complex" else "u1", (3, 20, 9))
    make_tiff(path, pages, kind)
    data = path.read_bytes()
    for end in range(8, len(data), len(data) // 90):
        path.write_bytes(data[:end])
        with contextlib.suppress(InputError):
            assert list_variables(path)[0].shape == (20, 9, 3)
        try:
            with open_cube(path) as reader:
                read = [reader.read(k) for k in range(reader.info.shape[2])]
        except InputError as error:
            assert "truncated" in str(error)
        else:
            np.testing.assert_array_equal(read, pages)
            assert end > 0.9 * len(data)
    assert "invalid page offset" not in caplog.text


def test_tiff_whose_pages_lead_back_is_damaged(tmp_path):
    path = tmp_path / "c.tif"
    write_cube(path, make_cube("f4"))
    with tifffile.TiffFile(path) as file:
        first, place = file.pages[0].offset, file.pages.next_page_offset
    data = bytearray(path.read_bytes())
    data[place : place + 4] = struct.pack("<I", first)
    path.write_bytes(data)
    with pytest.raises(InputError, match="page 4 is damaged"):
        open_cube(path)


@pytest.mark.parametrize("name", FILES)
def test_damaged_files_give_mzsr_errors_or_values(tmp_path, name):
    path = tmp_path / name
    make_file(path)
    data = path.read_bytes()
    rng = np.random.default_rng(1)
    for _ in range(25):
        broken = bytearray(data)
        for place in rng.integers(0, min(len(data), 2000), 12):
            broken[place] = rng.integers(256)
        path.write_bytes(broken)
        try:
            read_through(path)
        except MzsrError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("name", [*FILES, "c.txt", "c"])
def test_wrong_content(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"these are not the samples you are looking for" * 40)
    with pytest.raises(InputError) as error:
        open_cube(path)
    one_clear_line(error, path)


def test_missing_file_and_bad_axis(tmp_path):
    with pytest.raises(MissingInputError, match="no such file"):
        open_cube(tmp_path / "c.mat")
    with pytest.raises(UsageError, match="slice-axis"):
        open_cube(tmp_path / "c.mat", slice_axis=3)
    with pytest.raises(InputError, match="a folder"):
        open_cube(tmp_path)
    (tmp_path / "c.zarr").mkdir()
    with pytest.raises(InputError, match="no Zarr array"):
        open_cube(tmp_path / "c.zarr")


def test_no_cube_in_mat_lists_what_is_there(tmp_path):
    path = tmp_path / "cube.mat"
    scipy.io.savemat(path, {"t": np.ones((1, 150)), "name": "abc"})
    with pytest.raises(InputError) as error:
        open_cube(path)
    assert str(error.value) == (
        f"{path}: no 3-D numeric variable (found t 1x150, name char). Pass --variable."
    )


def test_more_than_three_axes_are_told_how_to_reshape(tmp_path):
    """By a line that makes of them a cube that can be read."""
    stored = np.arange(4 * 5 * 3 * 2.0).reshape(4, 5, 3, 2)
    mat, npy = tmp_path / "c.mat", tmp_path / "c.npy"
    scipy.io.savemat(mat, {"gain": stored, "t": np.ones((1, 9))})
    np.save(npy, stored)
    with pytest.raises(InputError, match=r"reshape\(gain, 4, 5, \[\]\) in MATLAB"):
        open_cube(mat)
    with pytest.raises(InputError, match=r"reshape\(gain, 4, 5, \[\]\) in MATLAB"):
        open_cube(mat, "gain")
    with pytest.raises(InputError) as error:
        open_cube(npy)
    assert "rows and columns first" in str(error.value)
    (told,) = re.findall(r"H\.reshape\((\d+), (\d+), (-1)\)", str(error.value))
    np.save(npy, stored.reshape(*map(int, told)))
    with open_cube(npy) as cube:
        assert cube.info.shape == (4, 5, 6)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file["run/gain"] = stored
    with pytest.raises(InputError, match=r" gain\.reshape\(4, 5, -1\)"):
        open_cube(tmp_path / "c.h5")
    np.save(npy, np.ones(9))
    with pytest.raises(InputError, match="Reshape it first"):
        open_cube(npy)


def test_choice_of_variable(tmp_path):
    path = tmp_path / "c.mat"
    scipy.io.savemat(path, {"a": make_cube("f8"), "b": make_cube("f8"), "c": np.ones((2, 3))})
    with pytest.raises(InputError, match=r"2 3-D numeric variables \(a 5x37x3, b 5x37x3\)"):
        open_cube(path)
    assert open_cube(path, "b").info.variable == "b"
    assert open_cube(path, "c").info.shape == (2, 3, 1)
    with pytest.raises(InputError, match="no variable 'd'"):
        open_cube(path, "d")
    scipy.io.savemat(path, {"c": np.ones((2, 3)), "v": np.ones((1, 9)), "s": "x"})
    assert open_cube(path).info.variable == "c"
    scipy.io.savemat(path, {"c": np.ones((2, 3)), "d": np.ones((3, 9))})
    with pytest.raises(InputError, match="2 2-D numeric variables"):
        open_cube(path)


def test_an_empty_array_is_not_a_choice(tmp_path):
    empty, flat = np.zeros((0, 4, 3)), np.ones((3, 4))
    scipy.io.savemat(tmp_path / "c.mat", {"H": make_cube("f8"), "e3": empty})
    np.savez(tmp_path / "c.npz", H=make_cube("f8"), e3=empty)
    scipy.io.savemat(tmp_path / "flat.mat", {"H": flat, "e3": empty, "e2": np.zeros((0, 4))})
    for name in ("c.mat", "c.npz", "flat.mat"):
        assert open_cube(tmp_path / name).info.variable == "H"
        assert cube_info(tmp_path / name, None, 2, "0:1")["cube"]["variable"] == "H"
    scipy.io.savemat(tmp_path / "c.mat", {"e3": empty})
    with pytest.raises(InputError, match="found e3 0x4x3"):
        open_cube(tmp_path / "c.mat")
    with pytest.raises(InputError, match="is empty"):
        open_cube(tmp_path / "c.mat", "e3")


@pytest.mark.parametrize("kind", ["char", "cell", "struct", "sparse"])
def test_variables_that_are_no_arrays(tmp_path, kind):
    values = {
        "char": "text",
        "cell": np.array([[1, "a"]], object),
        "struct": {"a": 1},
        "sparse": scipy.sparse.csc_array(np.eye(4)),
    }
    scipy.io.savemat(tmp_path / "c.mat", {"v": values[kind]})
    with pytest.raises(InputError, match=kind):
        open_cube(tmp_path / "c.mat", "v")
    (found,) = list_variables(tmp_path / "c.mat")
    assert found.kind == kind and not found.numeric


def test_sparse_in_v73(tmp_path):
    with h5py.File(tmp_path / "c.mat", "w", userblock_size=512) as file:
        group = file.create_group("v")
        group.attrs["MATLAB_class"] = np.bytes_("double")
        group.attrs["MATLAB_sparse"] = np.uint64(4)
    with pytest.raises(InputError, match="full"):
        open_cube(tmp_path / "c.mat", "v")


@pytest.mark.parametrize(
    "array",
    [
        np.empty((5, 0, 3)),
        np.ones((2, 3, 4, 5)),
        np.ones(5),
        np.float64(3),
        np.array([[["a"]]]),
        np.zeros((2, 2, 2), [("a", "f4"), ("b", "f4")]),
        np.zeros((2, 2, 2), "M8[s]"),
        np.ones((2, 2, 2), np.longdouble),
    ],
    ids=str,
)
def test_arrays_that_are_no_cubes(tmp_path, array):
    np.save(tmp_path / "c.npy", array)
    np.savez(tmp_path / "c.npz", H=array)
    with pytest.raises(InputError):
        open_cube(tmp_path / "c.npy")
    with pytest.raises(InputError):
        open_cube(tmp_path / "c.npz", "H")


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_nothing_is_unpickled(tmp_path):
    cube = np.empty((2, 2, 2), object)
    cube[...] = Bomb()
    np.save(tmp_path / "c.npy", cube, allow_pickle=True)
    np.savez(tmp_path / "c.npz", H=cube)
    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("c.npy", "c.npz", "raw.npy"):
        with pytest.raises(InputError):
            open_cube(tmp_path / name, "H" if name == "c.npz" else None)
        with contextlib.suppress(InputError):
            list_variables(tmp_path / name)


def test_pickled_zarr_is_refused(tmp_path):
    path = tmp_path / "c.zarr"
    zarr.create_array(path, shape=(2, 2, 2), dtype="f8", zarr_format=2)
    meta = (path / ".zarray").read_text()
    assert '"filters": null' in meta
    (path / ".zarray").write_text(
        meta.replace('"filters": null', '"filters": [{"id": "pickle", "protocol": 5}]')
    )
    with pytest.raises(InputError):
        open_cube(path)


def npy_header(shape):
    buffer = io.BytesIO()
    fields = {"descr": "<f8", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, fields)
    return buffer.getvalue()


def test_declared_sizes_are_checked_before_allocating(tmp_path, monkeypatch):
    huge = (10**6, 10**6, 10**6)
    (tmp_path / "c.npy").write_bytes(npy_header(huge))
    with zipfile.ZipFile(tmp_path / "c.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("H.npy", npy_header(huge))
    for name in ("c.npy", "c.npz"):
        with pytest.raises(InputError, match="truncated"):
            open_cube(tmp_path / name)
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset("H", shape=huge, chunks=(10, 10, 10), dtype="f8")
    zarr.create_array(tmp_path / "c.zarr", shape=huge, chunks=(10, 10, 10), dtype="f8")
    for name in ("c.h5", "c.zarr"):
        with pytest.raises(ResourceError, match=r"needs 7.3 TiB of memory, .* are free"):
            open_cube(tmp_path / name)
    make_file(tmp_path / "c5.mat")
    make_file(tmp_path / "z.npz")
    monkeypatch.setattr(checks, "available_memory", lambda: 4000)
    for name in ("c5.mat", "z.npz"):
        with pytest.raises(ResourceError, match=r"needs 4\.3 KiB"):
            open_cube(tmp_path / name)


def test_external_storage_is_not_followed(tmp_path):
    (tmp_path / "secret").write_bytes(bytes(8 * 27))
    with h5py.File(tmp_path / "c.h5", "w") as file:
        file.create_dataset(
            "H", shape=(3, 3, 3), dtype="f8", external=[(str(tmp_path / "secret"), 0, 8 * 27)]
        )
    with pytest.raises(InputError, match="other files"):
        open_cube(tmp_path / "c.h5")


def test_colour_and_unequal_tiffs(tmp_path):
    tifffile.imwrite(tmp_path / "rgb.tif", make_cube("u1"), photometric="rgb")
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        file.write(np.zeros((5, 7), np.uint8), contiguous=False)
        file.write(np.zeros((6, 7), np.uint8), contiguous=False)
    for name in ("rgb.tif", "two.tif"):
        with pytest.raises(InputError):
            open_cube(tmp_path / name)


def test_missing_zarr_package_says_what_to_type(tmp_path, monkeypatch):
    (tmp_path / "c.zarr").mkdir()
    (tmp_path / "c.zarr" / "zarr.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "zarr", None)
    with pytest.raises(InputError, match=r"pip install 'mzsr\[zarr\]'"):
        open_cube(tmp_path / "c.zarr")


def test_expand_inputs(tmp_path, monkeypatch):
    for name in ("b.mat", "a.npy", "notes.txt", "a_x2.npy.part", "img.PNG"):
        (tmp_path / name).write_bytes(b"x")
    zarr.create_array(tmp_path / "c.zarr", shape=(2, 2, 2), dtype="f4")
    (tmp_path / "empty").mkdir()
    in_folder = [tmp_path / n for n in ("a.npy", "b.mat", "c.zarr", "img.PNG")]
    assert expand_inputs([str(tmp_path)]) == in_folder
    assert expand_inputs([str(tmp_path / "*")]) == in_folder
    assert expand_inputs([str(tmp_path / "a*"), str(tmp_path / "a.npy")]) == in_folder[:1]
    assert expand_inputs([str(tmp_path / "notes.txt")]) == [tmp_path / "notes.txt"]
    assert is_cube_file(tmp_path / "c.zarr") and not is_cube_file(tmp_path / "notes.txt")
    monkeypatch.chdir(tmp_path)
    assert [str(p) for p in expand_inputs(["b.mat"])] == ["b.mat"]
    for bad in (str(tmp_path / "z*.mat"), str(tmp_path / "gone.mat")):
        with pytest.raises(MissingInputError):
            expand_inputs([bad])
    for none in ([str(tmp_path / "empty")], []):
        with pytest.raises(InputError):
            expand_inputs(none)


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize("kind", [0, 8, 10, 99, 60000])
def test_unknown_data_type_in_v5_is_an_error_not_a_crash(tmp_path, kind, compress):
    """scipy ends the process with a segmentation fault on these."""
    path = tmp_path / "c.mat"
    write_cube(path, make_cube("f8"), variable="cube_name")
    data = path.read_bytes()
    tag = struct.pack("<II", 9, 5 * 37 * 3 * 8)
    assert data.count(tag) == 1
    data = data.replace(tag, struct.pack("<II", kind, 5 * 37 * 3 * 8))
    if compress:
        packed = zlib.compress(data[128:])
        data = data[:128] + struct.pack("<II", 15, len(packed)) + packed
    path.write_bytes(data)
    with pytest.raises(InputError, match="unknown type"):
        open_cube(path)


def test_damaged_carried_variable_is_noted(tmp_path):
    path = tmp_path / "c.mat"
    write_cube(path, make_cube("f8"), carried={"other_name": np.arange(1000.0)})
    data = path.read_bytes()
    tag = struct.pack("<II", 9, 8000)
    assert data.count(tag) == 1
    path.write_bytes(data.replace(tag, struct.pack("<II", 60000, 8000)))
    with open_cube(path) as reader:
        assert reader.carried() == {}
        assert "other_name" in reader.notes[0]


def test_v73_variables_that_have_no_form_here_are_not_called_damaged(tmp_path):
    with h5py.File(tmp_path / "c.mat", "w", userblock_size=512) as file:
        file["H"] = make_cube("f8").T
        file["text"] = np.zeros((1, 6), np.uint32)
        file["text"].attrs["MATLAB_class"] = np.bytes_("string")
        file["text"].attrs["MATLAB_object_decode"] = np.int32(3)
        file["none"] = np.array([0, 0], np.uint64)
        file["none"].attrs["MATLAB_class"] = np.bytes_("struct")
        file["none"].attrs["MATLAB_empty"] = np.uint8(1)
        file.create_group("thin").attrs["MATLAB_sparse"] = np.uint64(4)
        file["in/deep"] = file["text"]
    with open_cube(tmp_path / "c.mat") as reader:
        assert reader.carried() == {}
        assert reader.notes == [
            "variable 'in' is not carried over: it is a string object",
            "variable 'none' is not carried over: it is an empty struct array",
            "variable 'text' is not carried over: it is a string object",
            "variable 'thin' is not carried over: it is sparse",
        ]


def test_names_in_messages_are_printable(tmp_path):
    np.savez(tmp_path / "c.npz", **{"a\nb": np.ones(3)})
    with pytest.raises(InputError, match=r"found a\?b 3"):
        open_cube(tmp_path / "c.npz")
