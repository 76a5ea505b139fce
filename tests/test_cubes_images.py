"""PNG and JPEG: grey and colour slices."""

from __future__ import annotations

import numpy as np
import pytest
from cube_files import make_cube, read_all
from PIL import Image

from mzsr_cli.cubes.image import rgb_to_ycc, ycc_to_rgb
from mzsr_cli.cubes.open import create_cube, open_cube
from mzsr_cli.errors import MzsrError, UsageError


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_grey_round_trip(tmp_path, dtype):
    cube = make_cube(dtype, (5, 37, 1))
    with create_cube(tmp_path / "c.png", cube.shape, cube.dtype) as writer:
        writer.write(0, cube[..., 0])
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "c.png")), cube[..., 0])
    with open_cube(tmp_path / "c.png") as reader:
        assert reader.info.dtype == cube.dtype and reader.chroma() is None
        np.testing.assert_array_equal(read_all(reader), cube)


def test_grey_floats_are_rounded_and_saturated(tmp_path):
    with create_cube(tmp_path / "c.png", (1, 4, 1), "uint8") as writer:
        writer.write(0, np.array([[-3.0, 1.6, 254.4, 300.0]]))
    assert np.array(Image.open(tmp_path / "c.png")).tolist() == [[0, 2, 254, 255]]


def test_luma_is_matlabs():
    rgb = np.array([[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255]]], np.uint8)
    expected = [[16, 128, 128], [235, 128, 128], [81.481, 90.203, 240], [40.966, 240, 109.786]]
    np.testing.assert_allclose(rgb_to_ycc(rgb)[0], expected, atol=1e-9)
    np.testing.assert_array_equal(ycc_to_rgb(rgb_to_ycc(rgb)), rgb)


def test_colour_round_trip_and_resume(tmp_path):
    rgb = make_cube("uint8", (5, 37, 3))
    Image.fromarray(rgb).save(tmp_path / "c.png")
    part = tmp_path / "out.png.part"
    with open_cube(tmp_path / "c.png") as reader:
        assert reader.info.shape == (5, 37, 1) and reader.info.dtype == np.float32
        luma, chroma = reader.read(0), reader.chroma()
        like = reader.info
    assert luma.min() >= 16 and luma.max() <= 235
    writer = create_cube(part, like.shape, like.dtype, like=like)
    writer.set_chroma(*chroma)
    writer.write(0, luma)
    writer.flush()
    del writer
    again = create_cube(part, like.shape, like.dtype, like=like, resume=True)
    np.testing.assert_array_equal(again.read(0), luma)
    again.close()
    np.testing.assert_array_equal(np.array(Image.open(part, formats=["PNG"])), rgb)
    before = part.read_bytes()
    third = create_cube(part, like.shape, like.dtype, like=like, resume=True)
    third.close()
    third = create_cube(part, like.shape, like.dtype, like=like, resume=True)
    third.set_chroma(*chroma)
    third.write(0, luma)
    third.close()
    assert part.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.png", "out.png.part"]


def test_colour_without_chroma_is_an_error(tmp_path):
    Image.fromarray(make_cube("uint8", (5, 37, 3))).save(tmp_path / "c.png")
    with open_cube(tmp_path / "c.png") as reader:
        like = reader.info
    writer = create_cube(tmp_path / "o.png.part", (5, 37, 1), "f4", like=like)
    with pytest.raises(ValueError, match="chroma"):
        writer.set_chroma(np.zeros((5, 36)), np.zeros((5, 37)))
    writer.write(0, np.zeros((5, 37), np.float32))
    with pytest.raises(MzsrError, match="chroma"):
        writer.close()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_every_mode_is_read(tmp_path, mode):
    base = Image.fromarray(make_cube("uint8", (5, 37, 3)))
    image = Image.fromarray(make_cube("uint16", (5, 37))) if mode == "I;16" else base.convert(mode)
    name = "c.jpg" if mode == "CMYK" else "c.png"
    image.save(tmp_path / name)
    with open_cube(tmp_path / name) as reader:
        assert reader.info.shape == (5, 37, 1)
        assert (reader.chroma() is None) == (mode in ("1", "L", "LA", "I;16"))
        assert bool(reader.notes) == (mode in ("LA", "RGBA"))


def test_jpeg_is_read_but_not_written(tmp_path):
    Image.fromarray(make_cube("uint8", (5, 37))).save(tmp_path / "c.jpg")
    with open_cube(tmp_path / "c.jpg") as reader:
        assert reader.info.format == "jpeg" and reader.info.dtype == np.uint8
    with pytest.raises(UsageError, match=r"c2\.png"):
        create_cube(tmp_path / "c2.jpg", (5, 37, 1), "uint8")
