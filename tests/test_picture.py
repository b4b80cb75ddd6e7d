"""Pictures from untrusted bytes: every way in which one can be bad has a rule, and good ones become the right pixels."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import textwrap
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from umair.picture import PictureError, PictureLimits, decode_picture

LIMITS = PictureLimits()


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_claiming(width: int, height: int) -> bytes:
    """A few hundred bytes that say they are a picture of this size."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def rule_of(content: bytes, limits: PictureLimits = LIMITS) -> str:
    with pytest.raises(PictureError) as caught:
        decode_picture(content, 16, limits)
    assert caught.value.value  # a reject says what was found
    return caught.value.rule


# ---------------------------------------------------------------- pixels
@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG"])
def test_a_plain_picture_keeps_its_colours_in_every_format(form: str) -> None:
    options = {"lossless": True} if form == "WEBP" else {"quality": 100} if form == "JPEG" else {}
    content = encoded(Image.new("RGB", (70, 30), (255, 0, 0)), form, **options)
    pixels = decode_picture(content, 32, LIMITS)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.reshape(-1, 3), np.tile([255, 0, 0], (32 * 32, 1)), atol=2)


def test_the_aspect_is_not_kept_and_resizing_is_bilinear() -> None:
    columns = np.repeat(np.array([[0, 100]], dtype=np.uint8), 7, axis=0)  # 2 wide, 7 high
    pixels = decode_picture(encoded(Image.fromarray(columns), "PNG"), 4, LIMITS)
    # 4 pixels over 2: centres at 0.25, 0.75, 1.25, 1.75; between the centres 0.5 and 1.5 the line is straight
    np.testing.assert_array_equal(pixels[:, :, 0], np.tile([0, 25, 75, 100], (4, 1)))


def test_the_size_asked_for_gives_the_pixels_unchanged() -> None:
    picture = noise(24, 24)
    np.testing.assert_array_equal(decode_picture(encoded(picture, "PNG"), 24, LIMITS), np.asarray(picture))


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_exif_orientation_is_applied(orientation: int, corner: tuple[int, int]) -> None:
    stored = np.zeros((32, 32, 3), dtype=np.uint8)
    stored[:16, :16] = 255  # white in the upper left as stored
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_picture(encoded(Image.fromarray(stored), "JPEG", quality=95, exif=exif), 32, LIMITS)
    bright = {place: int(pixels[place].mean()) for place in [(0, 0), (0, -1), (-1, 0), (-1, -1)]}
    assert max(bright, key=bright.__getitem__) == corner
    assert sorted(bright.values())[-2] < 50 < bright[corner]


def test_an_exif_block_that_cannot_be_read_says_nothing_against_the_pixels() -> None:
    whole = encoded(Image.new("RGB", (8, 8), (200, 30, 30)), "JPEG", dpi=(72, 72))
    block = b"Exif\0\0no header of a TIFF"
    damaged = whole[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + whole[2:]
    with pytest.raises(SyntaxError):
        ImageOps.exif_transpose(Image.open(io.BytesIO(damaged)))
    np.testing.assert_array_equal(decode_picture(damaged, 32, LIMITS), decode_picture(whole, 32, LIMITS))


def test_alpha_lies_over_white() -> None:
    half_black = Image.new("RGBA", (8, 8), (0, 0, 0, 51))  # a fifth opaque: 255 * 0.8
    np.testing.assert_array_equal(decode_picture(encoded(half_black, "PNG"), 8, LIMITS), np.full((8, 8, 3), 204))


def test_a_transparent_palette_colour_lies_over_white() -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    opaque, clear = encoded(palette, "PNG"), encoded(palette, "PNG", transparency=1)
    assert decode_picture(opaque, 8, LIMITS)[0, 0].tolist() == [10, 20, 30]
    assert decode_picture(clear, 8, LIMITS)[0, 0].tolist() == [255, 255, 255]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for form in ("GIF", "PNG", "WEBP"):
        content = encoded(red, form, save_all=True, append_images=[blue], **({"lossless": True} if form == "WEBP" else {}))
        assert Image.open(io.BytesIO(content)).n_frames == 2
        assert decode_picture(content, 8, LIMITS)[0, 0].tolist() == [255, 0, 0]


def test_sixteen_bits_are_scaled_not_cut() -> None:
    values = np.full((8, 8), 60_000, dtype=np.uint16)  # 60,000 / 65,535 * 255 = 233.5 less a little
    assert decode_picture(encoded(Image.fromarray(values), "PNG"), 8, LIMITS)[0, 0].tolist() == [233, 233, 233]


def test_sixteen_bits_a_colour_are_scaled_too() -> None:
    """A PNG by hand, as Pillow writes none: 8 x 8 pixels of (60,000, 30,000, 0)."""
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    line = b"\0" + struct.pack(">3H", 60_000, 30_000, 0) * 8
    content = b"\x89PNG\r\n\x1a\n" + b"".join([chunk(b"IHDR", struct.pack(">2I5B", 8, 8, 16, 2, 0, 0, 0)),
                                                chunk(b"IDAT", zlib.compress(line * 8)), chunk(b"IEND", b"")])
    np.testing.assert_allclose(decode_picture(content, 8, LIMITS)[0, 0], [233, 116, 0], atol=1)


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_floating_point_grey_is_scaled() -> None:
    values = np.array([[0.0, 1.0], [np.nan, 0.2]], dtype=np.float32)
    pixels = decode_picture(encoded(Image.fromarray(values), "TIFF"), 2, LIMITS)
    assert pixels[:, :, 0].tolist() == [[0, 255], [0, 51]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr", "RGBA", "I;16"])
def test_every_mode_becomes_three_channels(mode: str) -> None:
    form = "TIFF" if mode in ("CMYK", "YCbCr") else "PNG"
    assert decode_picture(encoded(Image.new(mode, (9, 5)), form), 8, LIMITS).shape == (8, 8, 3)


def test_cmyk_and_progressive_jpeg() -> None:
    cyan = encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "JPEG", quality=100)
    np.testing.assert_allclose(decode_picture(cyan, 8, LIMITS)[0, 0], [0, 255, 255], atol=3)
    red = encoded(Image.new("RGB", (16, 16), "red"), "JPEG", progressive=True, quality=100)
    np.testing.assert_allclose(decode_picture(red, 8, LIMITS)[0, 0], [255, 0, 0], atol=3)


def test_halving_a_large_jpeg_while_decoding_changes_little() -> None:
    smooth = noise(40, 40).resize((640, 640), Image.Resampling.BICUBIC)
    content = encoded(smooth, "JPEG", quality=95)
    whole = smooth.resize((128, 128), Image.Resampling.BILINEAR)
    assert np.abs(decode_picture(content, 128, LIMITS).astype(int) - np.asarray(whole).astype(int)).max() <= 5


# ---------------------------------------------------------------- bad bytes
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP"])
def test_half_a_picture_is_truncated(form: str) -> None:
    content = encoded(noise(), form)
    assert rule_of(content[: len(content) // 2]) == "truncated"


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_picture_cut_off_in_its_header_is_no_picture(form: str) -> None:
    assert rule_of(encoded(noise(), form)[:30]) in ("truncated", "damaged")


def test_what_is_no_picture_says_so() -> None:
    assert rule_of(b"") == "empty_file"
    assert rule_of(b"<!DOCTYPE html><html>not found</html>") == "not_an_image"
    assert rule_of(b"RIFF\x24\x00\x00\x00WAVEfmt ") == "not_an_image"
    assert rule_of(b"%!PS-Adobe-3.0 EPSF-3.0\n") == "not_an_image"  # Ghostscript is never started


def test_damage_within_a_picture_says_so() -> None:
    content = bytearray(encoded(noise(), "PNG"))
    content[len(content) // 2] ^= 0xFF
    assert rule_of(bytes(content)) in ("damaged", "truncated")


@pytest.mark.parametrize("place", [33, -12])  # after the header, and after the pixels
def test_a_text_that_unpacks_to_far_more_is_refused(place: int) -> None:
    content = encoded(noise(), "PNG")
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(50_000_000)))
    assert rule_of(content[:place] + bomb + content[place:]) == "damaged"  # Pillow raises ValueError here, not OSError


@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_hostile_bytes_raise_nothing_but_picture_errors(form: str) -> None:
    good, chance = encoded(noise(), form), np.random.default_rng(7)
    failed = 0
    for _ in range(60):
        content = bytearray(good)
        for place in chance.integers(0, len(content), 12):
            content[place] = chance.integers(0, 256)
        try:
            assert decode_picture(bytes(content), 16, LIMITS).shape == (16, 16, 3)
        except PictureError:
            failed += 1
    assert failed or form == "BMP"


# ---------------------------------------------------------------- too much
def test_a_picture_of_1600_megapixels_is_refused_without_allocating_it() -> None:
    program = f"""
        import resource
        from umair.picture import PictureError, PictureLimits, decode_picture
        content = {png_claiming(40_000, 40_000)!r}
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            decode_picture(content, 64, PictureLimits())
        except PictureError as error:
            print(error.rule, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    said = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True,
                          env={**os.environ, "PYTHONPATH": os.getcwd()}).stdout.split()
    assert said[0] == "too_many_pixels"
    assert int(said[1]) < 10_000  # KiB; decoded it would be 4.8 million


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_where_pillow_only_warns_we_refuse() -> None:
    assert rule_of(png_claiming(10_000, 9_000)) == "too_many_pixels"


def test_the_pixel_limit_counts_the_header() -> None:
    at_limit, above = PictureLimits(max_pixels=2_400), PictureLimits(max_pixels=2_399)
    content = encoded(noise(60, 40), "PNG")
    assert decode_picture(content, 8, at_limit).shape == (8, 8, 3)
    assert rule_of(content, above) == "too_many_pixels"


def test_too_many_bytes_are_refused() -> None:
    assert rule_of(encoded(noise(), "BMP"), PictureLimits(max_bytes=1_000)) == "too_many_bytes"


def test_the_error_crosses_processes_whole_and_short() -> None:
    error = pickle.loads(pickle.dumps(PictureError("damaged", "x" * 10_000)))
    assert (error.rule, len(error.value)) == ("damaged", 120)
