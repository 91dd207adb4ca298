"""How far a loop is: a bar on a terminal, now and then a line in a log file (ours)."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm


def progress(
    results: Iterable[Any], total: int | None, *, unit: str, every_s: float = 5.0
) -> Iterator[Any]:
    """Pass the results on, with a bar on a terminal, else a line on stdout now and then.

    Args:
        total: how many there will be; None if nobody knows.
        unit: what one of them is, e.g. "picture".
        every_s: seconds between two lines.
    """
    if sys.stderr.isatty():
        yield from tqdm(results, total=total, unit=unit)
        return
    started = said = time.monotonic()
    for count, result in enumerate(results, start=1):
        now = time.monotonic()
        if now - said > every_s:
            said, rate = now, count / (now - started)
            left = f", {max(0, total - count) / rate:.0f} s left" if total else ""
            print(f"{count}{f'/{total}' if total else ''} {unit}s, {rate:.1f}/s{left}", flush=True)
        yield result
