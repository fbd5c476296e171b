"""Image files of all formats, modes and orientations, and broken ones."""

import io
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.datasets.images import load_image
from mobilesam.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


def encoded(picture, kind="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def with_orientation(value, kind="PNG"):
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(Image.fromarray(PIXELS), kind, exif=exif)


def test_a_file_and_its_bytes_give_the_same_pixels(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(encoded(Image.fromarray(PIXELS)))
    assert np.array_equal(load_image(path, "a.png"), PIXELS)
    assert np.array_equal(load_image(path.read_bytes(), "a.png"), PIXELS)


@pytest.mark.parametrize("value", range(1, 9))
def test_exif_orientations_are_applied(value):
    data = with_orientation(value)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    result = load_image(data, "a")
    assert result.flags.c_contiguous
    assert np.array_equal(result, expected)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("value", [2, 3, 6])
def test_orientations_are_applied_once_in_every_format(kind, value):
    data = with_orientation(value, kind)
    expected = np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert np.array_equal(load_image(data, "a"), expected)


def test_the_stored_pixels_are_returned_if_annotations_match_them():
    data = with_orientation(6)
    assert load_image(data, "a", (30, 20)).shape == (30, 20, 3)
    assert np.array_equal(load_image(data, "a", (20, 30)), PIXELS)


def test_a_wrong_size_is_rejected():
    with pytest.raises(DataError, match=r"a\.png is 30x20 px.* for 31x20 px"):
        load_image(encoded(Image.fromarray(PIXELS)), "a.png", (20, 31))


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK"])
def test_all_modes_are_converted_to_rgb(mode):
    picture = Image.fromarray(PIXELS).convert(mode)
    result = load_image(encoded(picture, "TIFF" if mode == "CMYK" else "PNG"), "a")
    assert result.shape == PIXELS.shape
    assert result.dtype == np.uint8
    if mode not in ("P", "1"):
        expected = np.array(picture.convert("RGB"))
        assert np.abs(result.astype(int) - expected).max() <= 1


def test_transparent_pixels_are_composited_on_white():
    layers = np.dstack([PIXELS, np.zeros((20, 30), np.uint8)])
    layers[5, 5, 3] = 255
    result = load_image(encoded(Image.fromarray(layers)), "a")
    assert np.array_equal(result[5, 5], PIXELS[5, 5])
    assert (np.delete(result.reshape(-1, 3), 5 * 30 + 5, axis=0) == 255).all()


def test_a_palette_with_a_transparent_colour():
    picture = Image.new("P", (4, 4), 0)
    picture.putpalette([200, 0, 0] + [0, 0, 0] * 255)
    assert (load_image(encoded(picture), "a") == [200, 0, 0]).all()
    assert (load_image(encoded(picture, transparency=0), "a") == 255).all()


def test_sixteen_bit_grey_keeps_its_upper_bits():
    grey = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
    result = load_image(encoded(Image.fromarray(grey)), "a")
    assert result[0, :, 0].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_read(kind):
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert (load_image(data, "a") == [255, 0, 0]).all()


def test_sixteen_bit_colours_keep_their_upper_bits():
    """Pillow writes none, so the PNG is made by hand: (0x12ff, 0x8000, 0xffff)."""
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    body = zlib.compress(b"\0" + bytes.fromhex("12ff8000ffff"))
    parts = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(part)) + name + part + struct.pack(">I", zlib.crc32(name + part))
        for name, part in parts
    )
    assert load_image(data, "a").tolist() == [[[0x12, 0x80, 0xFF]]]


def test_floating_point_pixels_are_rejected():
    data = encoded(Image.fromarray(np.ones((3, 3), np.float32)), "TIFF")
    with pytest.raises(DataError, match="floating-point"):
        load_image(data, "a")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"<html>not found</html>", "not an image"),
        (encoded(Image.fromarray(PIXELS), "JPEG")[:-200], "cut off"),
        (encoded(Image.fromarray(PIXELS))[:-300], "cut off"),
    ],
)
def test_broken_files_are_reported_in_one_line(data, words):
    with pytest.raises(DataError, match=words) as caught:
        load_image(data, "x.jpg")
    assert "x.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"b\.png: No such file"):
        load_image(tmp_path / "b.png", "b.png")


@pytest.mark.parametrize("side", [11_000, 60_000])
def test_decompression_bombs_are_rejected_unopened(side, monkeypatch):
    # Other libraries switch Pillow's own guard off.
    header = encoded(Image.new("1", (8, 8)), "BMP")
    bomb = header[:18] + side.to_bytes(4, "little") * 2 + header[26:]
    for guard in (Image.MAX_IMAGE_PIXELS, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", guard)
        with pytest.raises(DataError, match="100,000,000"):
            load_image(bomb, "bomb")


def test_the_limit_of_pixels_is_an_argument(monkeypatch):
    """Above Pillow's own limit as well, which stays as it was."""
    data = encoded(Image.new("1", (20, 30)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert load_image(data, "a", max_pixels=600).shape == (30, 20, 3)
    assert Image.MAX_IMAGE_PIXELS == 100
    with pytest.raises(DataError, match=r"20x30 px, more than 599; .*--max-pixels 600"):
        load_image(data, "a", max_pixels=599)
    with pytest.raises(DataError, match="more than twice 200 px"):
        load_image(data, "a", max_pixels=200)


def test_a_file_too_large_for_the_limit_is_not_read(tmp_path):
    path = tmp_path / "huge.jpg"
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(DataError, match=r"huge\.jpg has 1099511627776 bytes"):
        load_image(path, "huge.jpg")


def test_invalid_file_names(tmp_path):
    for name in ("a\0b", "\ud800"):
        with pytest.raises(DataError, match="cannot read the image x"):
            load_image(tmp_path / name, "x")


def test_warnings_of_pillow_are_suppressed():
    data = encoded(Image.fromarray(PIXELS), "TIFF", tiffinfo={270: "x"})
    broken = data.replace(b"x\x00", b"\xff\xff", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for cut in range(len(data) - 120, len(data), 7):
            try:
                load_image(broken[:cut], "a")
            except DataError:
                continue


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
def test_damaged_files_give_an_image_or_a_data_error(kind):
    good = encoded(Image.fromarray(PIXELS), kind)
    rng = np.random.default_rng(1)
    for _ in range(60):
        bad = bytearray(good)
        for at in rng.integers(0, min(len(bad), 400), 4):
            bad[at] = int(rng.integers(256))
        try:
            assert load_image(bytes(bad), "a").dtype == np.uint8
        except DataError as error:
            assert "\n" not in str(error)  # noqa: PT017
