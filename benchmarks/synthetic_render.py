"""How fast synthetic streets are rendered and written; a frame is both cameras, all files.

python benchmarks/synthetic_render.py --scenes 40 --workers 2
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from datasets.synthetic_tree import SyntheticSettings, write_tree


def main() -> None:
    """Render into a temporary folder and print frames per second and CPU time per frame."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--look", default="look_a")
    parser.add_argument("--size", type=int, nargs=2, default=(128, 416), metavar=("H", "W"))
    args = parser.parse_args()
    settings = SyntheticSettings(args.scenes, 0, 0, image_size=tuple(args.size))
    with tempfile.TemporaryDirectory() as folder:
        start, before = time.perf_counter(), os.times()
        write_tree(Path(folder) / args.look, args.look, settings, args.workers)
        wall, after = time.perf_counter() - start, os.times()
    cpu = sum(after[:4]) - sum(before[:4])
    print(
        f"{settings.num_frames} frames {args.size[0]}x{args.size[1]}, {args.workers} workers: "
        f"{settings.num_frames / wall:.1f} frames/s, {1000 * cpu / settings.num_frames:.1f} ms CPU "
        "a frame, start of the workers included"
    )


if __name__ == "__main__":
    main()
