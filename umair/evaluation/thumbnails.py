"""Pictures small enough to live inside the report, as data URIs. A picture that cannot be read is None, never an error."""

from __future__ import annotations

import base64
import io

from PIL import Image

from umair.picture import PictureError, PictureLimits, decode_picture
from umair.picture_files import read_picture

_QUALITY = 82  # JPEG


def thumbnail(image_root: str, path: str | None, content: bytes | None, size: int, limits: PictureLimits) -> str | None:
    """A square JPEG of `size` pixels as a data URI, from the picture's bytes or its path below `image_root`.

    None when there is no picture, or none that passes the checks of `umair.picture`.
    """
    try:
        if content is None:
            if path is None:
                return None
            content = read_picture(image_root, path, limits)
        pixels = decode_picture(content, size, limits)
    except PictureError:
        return None  # the report says 'no picture'; why is in the table image_rejects
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
