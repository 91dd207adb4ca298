"""A ledger of every look at a test set (ours): who looks ten times and keeps the best has trained
on it. One JSON line a look; lines are only ever appended."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any


def append_to_ledger(path: Path, entry: dict[str, Any]) -> int:
    """Append `entry` with the time (UTC) as one line, on disk before this returns.

    Returns:
        How many entries there are now with the same "dataset" and "list_sha256".
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"time": now, **entry}) + "\n"
    # one write in append mode: two evaluations at once give two whole lines
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    key = ("dataset", "list_sha256")
    return sum(all(other.get(k) == entry.get(k) for k in key) for other in entries)
