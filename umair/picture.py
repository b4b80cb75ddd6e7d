"""A picture's way from untrusted bytes to pixels: checked before it is opened, checked again before it is decoded.

Whatever is wrong with a picture ends as one `PictureError` with a short rule and the offending value, so that it becomes a
reject row and never a dead task. No Spark, no torch.
"""

from __future__ import annotations

import io
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import Field

from umair.config import Section

PILLOW_WARNS_ABOVE = 89_478_485  # pixels; Pillow's own bomb limit, above which it only warns: here it is an error
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")  # others (EPS, ICNS, PSD ...) are never handed to a reader
SIGNATURE = re.compile(rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF....WEBP|BM|II\*\0|MM\0\*", re.DOTALL)
VALUE_LENGTH = 120  # characters of a reject's value
RGB = NDArray[np.uint8]


class PictureError(Exception):
    """A picture that cannot be used. `rule` is a short snake_case word, `value` what broke it."""

    def __init__(self, rule: str, value: str) -> None:
        self.rule, self.value = rule, value[:VALUE_LENGTH]
        super().__init__(f"{rule}: {self.value}")

    def __reduce__(self) -> tuple[type[PictureError], tuple[str, str]]:
        return type(self), (self.rule, self.value)


class PictureLimits(Section):
    """What a picture may cost before its pixels are decoded."""

    max_bytes: int = Field(64 * 2**20, gt=0)  # size of the file
    max_pixels: int = Field(50_000_000, gt=0, le=PILLOW_WARNS_ABOVE)  # width times height, as the header says


def decode_picture(content: bytes, size: int, limits: PictureLimits) -> RGB:
    """The picture as uint8 [size, size, 3] RGB, by bilinear resizing that does not keep the aspect (as UMAIR-FPS does).

    EXIF orientation is applied where EXIF can be read, alpha laid over white, of an animation the first frame taken; CMYK,
    palette and 16-bit pictures are converted. The header is checked before any pixel is decoded. Departure from the
    authors' code: a JPEG of more than four times `size` is halved while decoding, and shrinking averages over the pixels it
    skips.

    Raises PictureError: empty_file, too_many_bytes, not_an_image, too_many_pixels, truncated, damaged.
    """
    image = _open(content, limits)
    try:
        image.draft(None, (2 * size, 2 * size))
        image.load()
        flat = _over_white(_eight_bit(_upright(image)))
        return np.array(flat.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    except Exception as error:  # Pillow's readers raise almost anything on hostile bytes
        raise _broken(error) from error


def check_bytes(count: int, limits: PictureLimits) -> None:
    """Raises PictureError for a file of so many bytes: empty_file, too_many_bytes."""
    if count == 0:
        raise PictureError("empty_file", "0 bytes")
    if count > limits.max_bytes:
        raise PictureError("too_many_bytes", f"{count} bytes, allowed {limits.max_bytes}")


def _open(content: bytes, limits: PictureLimits) -> Image.Image:
    """The picture with its header read, within the limits, and no pixel decoded."""
    check_bytes(len(content), limits)
    if not SIGNATURE.match(content):
        raise PictureError("not_an_image", f"starts with {content[:16]!r}")
    try:
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("too_many_pixels", str(error)) from error
    except UnidentifiedImageError as error:  # its text names a place in memory
        raise PictureError("damaged", f"unreadable header in {len(content)} bytes") from error
    except Exception as error:  # as in decode_picture
        raise _broken(error) from error
    _check_pixels(image.size, limits)
    return image


def _check_pixels(size: tuple[int, int], limits: PictureLimits) -> None:
    width, height = size
    if width * height > limits.max_pixels:
        raise PictureError("too_many_pixels", f"{width} x {height}, allowed {limits.max_pixels} pixels")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # Pillow raises almost anything for a damaged EXIF block, which says nothing against the pixels
        return image


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit and floating-point grey scaled to 8 bits; Pillow itself would cut every value above 255 to white."""
    if image.mode == "F":
        return Image.fromarray(_bytes_of(np.asarray(image, np.float64) * 255.0))
    if image.mode.startswith("I"):
        return Image.fromarray(_bytes_of(np.asarray(image, np.float64) / 257.0))
    return image


def _bytes_of(values: NDArray[np.float64]) -> RGB:
    return np.nan_to_num(values).round().clip(0, 255).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    pixels = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")


def _broken(error: Exception) -> PictureError:
    text = f"{error}" or type(error).__name__
    rule = "truncated" if "truncated" in text.lower() or isinstance(error, EOFError) else "damaged"
    return PictureError(rule, text)
