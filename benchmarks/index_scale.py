"""How long tens of millions of plain images take to open, and how much memory they need.

python benchmarks/index_scale.py --entries 50000000 --out benchmarks/results/index_50m.json

Every entry of the list exists: 10,000 small pictures in one folder, and as many links to that
folder as the list needs, so names differ and are about 40 bytes long. Opening goes through what
consistency_train.py calls; at the end that script itself trains for two steps. Memory is `RssAnon`
of Linux, sampled twenty times a second, above what the imports took: pages of the mapped list can
be dropped at any time and are not in it. Where others keep the machine busy, processor seconds say
more than wall seconds. `--shuffled` writes the list in no order.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dotmap import DotMap
from interleaved import write_result  # puts the repository on the path
from PIL import Image

import consistency_train
from datasets.images import ImageFolder
from datasets.order import SampleOrder
from datasets.photometric import Strong
from datasets.synthetic_tree import SyntheticSettings, write_tree
from session import start_network
from streams import open_labels
from unlabeled import open_unlabeled, unlabeled_batches
from utils.config import load_config
from utils.processes import start_process
from utils.seeding import seeded

PER_FOLDER = 10_000
BATCH = 56  # unlabelled images a step and process, as in the paper


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--num-frames", type=int, help="unlabeled.num_frames; default: all")
    parser.add_argument("--shuffled", action="store_true")
    parser.add_argument("--folder", type=Path, help="where the simulation lies meanwhile")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        pool, names = simulate(Path(folder), args.entries, shuffled=args.shuffled)
        result = {
            "entries": args.entries, "list_bytes": names.stat().st_size,
            "in_order": not args.shuffled, "num_frames": args.num_frames, "workers": args.workers,
            "stages": measure(Path(folder), pool, names, args),
        }  # fmt: skip
    write_result(result, device=torch.device("cpu"), out=args.out)


def simulate(folder: Path, entries: int, *, shuffled: bool) -> tuple[Path, Path]:
    """Root and list of the pool; beside it synthetic streets to be labelled and validated on."""
    settings = SyntheticSettings(
        num_train_scenes=3, num_val_scenes=2, num_test_scenes=1, frames_per_scene=2,
        image_size=(64, 208),
    )  # fmt: skip
    for look in ("look_a", "look_b"):
        write_tree(folder / "streets" / look, look, settings, workers=1)
    pool, pictures = folder / "pool", folder / "pictures"
    pool.mkdir()
    pictures.mkdir()
    draw = np.random.default_rng(0)
    for number in range(min(entries, PER_FOLDER)):
        file = pictures / f"{number:010d}.jpg"
        if number < 16:
            Image.fromarray(draw.integers(0, 256, (48, 160, 3), np.uint8)).save(file)
        else:
            file.hardlink_to(pictures / f"{number % 16:010d}.jpg")
    folders = np.arange(-(-entries // PER_FOLDER))
    for number in folders.tolist():
        (pool / f"camera_front_left_{number:06d}").symlink_to(pictures)
    names = folder / "pool.txt"
    with open(names, "w") as file:
        for number in (draw.permutation(folders) if shuffled else folders).tolist():
            here = np.arange(min(PER_FOLDER, entries - number * PER_FOLDER))
            here = draw.permutation(here) if shuffled else here
            file.writelines(f"camera_front_left_{number:06d}/{k:010d}.jpg\n" for k in here.tolist())
    return pool, names


def measure(folder: Path, pool: Path, names: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Seconds and memory of each stage, by name."""
    words = [
        f"labeled.root={folder / 'streets'}", f"validation.root={folder / 'streets'}",
        "unlabeled.dataset=images", f"unlabeled.root={pool}", f"unlabeled.split={names}",
        f"unlabeled.batch_size={BATCH}", f"unlabeled.num_frames={args.num_frames or 'null'}",
        f"train.num_workers={args.workers}", "train.on_bad_sample=skip", "run.device=cpu",
        f"run.folder={folder / 'runs'}", "run.name=run", "audit.num_frames=0",
        "network.encoder=vit_tiny_patch16_224", "network.image_size=[32, 96]",
        "network.decoder_channels=8", "network.taps=[0, 1, 2, 3]", "masking.num_groups=4",
        "labeled.batch_size=2", "labeled.num_frames=null", "train.num_steps=2",
    ]  # fmt: skip
    cfg = load_config("conf/consistency_train.yaml", words)
    stages: dict[str, Any] = {}
    stage(stages, "open ImageFolder", lambda: ImageFolder(pool, str(names)))
    open_and_load(cfg, stages)
    with contextlib.redirect_stdout(io.StringIO()):
        stage(stages, "consistency_train.py, 2 steps", lambda: consistency_train.main(words))
    return stages


def open_and_load(cfg: DotMap, stages: dict[str, Any]) -> None:
    """What the training script does with the pool, step by step."""
    process = start_process("cpu")
    labels = open_labels(cfg, process)
    network, _ = start_network(cfg, process)
    opened = stage(stages, "open_unlabeled", lambda: open_unlabeled(cfg, *labels, process))
    stage(stages, "1,000 batches of 56 drawn", lambda: drawn(opened[1]))
    batches = unlabeled_batches(
        cfg,
        opened,
        network,
        strong=Strong(**cfg.strong.toDict()),
        samples={"unlabeled": 0},
        process=process,
    )
    stage(stages, "first batch of a loader", lambda: next(batches))
    stage(stages, "20 more batches of a loader", lambda: [next(batches) for _ in range(20)])
    children = multiprocessing.active_children()
    stages["workers after 21 batches"] = [
        {"mib": anonymous_mib(child.pid), "private_mib": private_mib(child.pid)}
        for child in children
    ]


def drawn(indices: Any) -> list[Any]:
    """The first 1,000 batches of indices."""
    order = SampleOrder(
        indices, batch_size=BATCH, first_sample=0, generator_for=partial(seeded, 0, "order")
    )
    return list(itertools.islice(order, 1000))


def stage(stages: dict[str, Any], name: str, work: Callable[[], Any]) -> Any:
    """Do `work`; note under `name` its wall and processor seconds, and memory (see above)."""
    before, start, busy = anonymous_mib("self"), time.perf_counter(), time.process_time()
    with peak_mib() as peak:
        result = work()
    stages[name] = {
        "wall_seconds": round(time.perf_counter() - start, 2),
        "processor_seconds": round(time.process_time() - busy, 2),  # without child processes
        "mib_at_start": before,
        "peak_mib_above_start": round(peak() - before, 1),
        "mib_at_end": anonymous_mib("self"),
    }
    print(f"{name}: {stages[name]}", file=sys.stderr, flush=True)
    return result


@contextlib.contextmanager
def peak_mib() -> Iterator[Callable[[], float]]:
    """Looks twenty times a second at this process's anonymous memory; gives the most seen, MiB."""
    seen, done = [anonymous_mib("self")], threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            seen[0] = max(seen[0], anonymous_mib("self"))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield lambda: seen[0]
    finally:
        done.set()
        thread.join()


def anonymous_mib(process: int | str) -> float:
    """Memory of a process, by its number, that is no page of a file."""
    return _mib(process, "status", ["RssAnon"])


def private_mib(process: int | str) -> float:
    """Memory that it shares with no other process: a forked one shares what its parent had."""
    return _mib(process, "smaps_rollup", ["Private_Clean", "Private_Dirty"])


def _mib(process: int | str, file: str, keys: Sequence[str]) -> float:
    text = Path(f"/proc/{process}/{file}").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return round(sum(int(fields[key].split()[0]) for key in keys) / 1024, 1)


if __name__ == "__main__":
    main()
