"""A fixed part of every picture: what a camera always shows of its own car is left out. Ours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from .frame import DataError


def cropped(
    image: Image.Image, intrinsics: np.ndarray, shares: Sequence[float]
) -> tuple[Image.Image, np.ndarray]:
    """The part of a picture between four of its lines, and the camera matrix of that part.

    Args:
        image: H x W pixels.
        intrinsics: (3, 3) camera matrix in pixels of `image`; NaN when unknown, and then stays so.
        shares: top, bottom, left, right as shares of H, H, W, W, each in [0, 1]; [0, 0.75, 0, 1]
            keeps the upper three quarters. Lines are rounded to whole pixels.

    Returns:
        Picture and camera matrix; the principal point has moved by the rows and columns that were
        cut off above and on the left, the focal length is the same. Neither argument is changed.

    Raises:
        DataError: no pixel of this picture is left.
    """
    heights, widths = (image.height, image.height), (image.width, image.width)
    top, bottom, left, right = (
        round(share * size) for share, size in zip(shares, heights + widths, strict=True)
    )
    if top >= bottom or left >= right:
        raise DataError(
            f"unlabeled.crop = {list(shares)} leaves nothing of a picture of {image.height} x "
            f"{image.width} pixels; it is [top, bottom, left, right] as shares of the picture"
        )
    intrinsics = intrinsics.copy()
    intrinsics[0, 2] -= left
    intrinsics[1, 2] -= top
    return image.crop((left, top, right, bottom)), intrinsics
