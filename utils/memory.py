"""Memory that was freed stays with the process. For training on a CPU. Ours."""

from __future__ import annotations

import ctypes
import sys

# of glibc's malloc.h
TRIM_THRESHOLD, MMAP_MAX = -1, -4
NEVER, NONE = -1, 0


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed for the next request; whether it could be told so.

    By default it returns large blocks to Linux at once and gets them back page by page, each zeroed
    first: a tenth of a ViT-B step (LOG.md, 2026-11-26). A step's blocks are those of the step
    before, so the process becomes hardly larger. Does nothing where the C library is another one.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return False
    return bool(mallopt(MMAP_MAX, NONE) and mallopt(TRIM_THRESHOLD, NEVER))
