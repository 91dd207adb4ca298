"""Stored size of pictures, from their headers alone."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from datasets.frame import DataError


def stored_size(path: Path) -> tuple[int, int]:
    """(height, width) of a picture without decoding it; DataError if the header is unreadable."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return image.height, image.width
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: size cannot be read ({error})") from error
