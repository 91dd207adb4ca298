"""Work of several threads whose results come in order (ours).

For decoders, encoders and numpy, which let go of Python's lock while they work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def in_order(jobs: Iterable[Callable[[], Any]], *, workers: int, ahead: int) -> Iterator[Any]:
    """Results of `jobs`, in their order, worked out by threads; the first error is raised here.

    No more than `ahead` + 1 jobs are taken before their turn, so memory is bounded. The jobs are
    taken by the caller's thread, one after another: an iterator need not bear several at once.
    """
    waiting: deque = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for job in jobs:
                waiting.append(pool.submit(job))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for left in waiting:
                left.cancel()
