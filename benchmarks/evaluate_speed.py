"""Frames a second of evaluation, whole and in parts; our scoring against the plain one, in turn.

    python benchmarks/evaluate_speed.py --out benchmarks/results/evaluate_speed_cpu.json

Frames of 375 x 1242 pixels with two ground truths as dense as KITTI's (annotated 19 %, one scan
4 % of the pixels) are written to a temporary folder in KITTI's layout. Variants:

    decode             pictures and ground truths read, nothing else
    scoring_plain      `reference_scoring`, one frame after another
    scoring            `scoring.evaluate`, as evaluate.py calls it
    *_floors           the same with --floors: two more uncertainties of each frame
    <network>_plain    one pass: predictions in float32, then the plain scoring of each
    <network>          one pass as evaluate.py makes it
    <network>_bf16     the same with evaluation.precision=bf16

Before anything is timed the rows of both scorings are compared: they must be the same bits.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import seconds_in_turn, summary, times_faster, write_result
from benchmarks.reference_scoring import reference_frame
from datasets.kitti import Kitti
from datasets.loading import EvaluationFrames
from evaluation_details import Details
from networks import build_network
from predictions import Prediction, network_predictions
from scoring import evaluate

SIZE = (375, 1242)
SHARES = {"groundtruth": 0.195, "velodyne_raw": 0.041}  # of KITTI's pixels, drive 2011_09_26 0001
DRIVE = "2011_09_26_drive_0001_sync"
NETWORKS = {
    "tiny": {"encoder": "vit_tiny_patch16_224", "image_size": (96, 320), "decoder_channels": 32},
    "vit_small": {"encoder": "vit_small_patch16_224", "image_size": (192, 640)},
}


def write_frames(root: Path, count: int) -> None:
    """KITTI-like files below `root`: a smooth scene, noise on the pictures, holes in the depth."""
    rng = np.random.default_rng(0)
    rows = np.linspace(0, 1, SIZE[0])[:, None]
    for number in range(count):
        columns = np.sin(np.linspace(0, 6, SIZE[1]) + number)[None]
        depth = 4 + 60 * (1 - rows) ** 2 * (1.2 + columns)
        picture = 255 * np.stack([rows + 0 * columns, 0.5 + columns / 2 + 0 * rows, depth / 150])
        picture = picture.transpose(1, 2, 0) + rng.normal(0, 8, (*SIZE, 3))
        name = f"{number:010d}.png"
        _save(root / "raw" / DRIVE[:10] / DRIVE / "image_02" / "data" / name,
              picture.clip(0, 255).astype(np.uint8))  # fmt: skip
        for kind, share in SHARES.items():
            units = np.where(rng.random(SIZE) < share, 256 * depth, 0).astype(np.uint16)
            _save(root / f"data_depth_annotated/train/{DRIVE}/proj_depth/{kind}/image_02/{name}",
                  units)  # fmt: skip


def _save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def score(
    predictions: Any, dataset: Any, *, names: Sequence[str], protocols: Sequence, floors: bool
) -> tuple[Any, Details]:
    """As evaluate.py does it."""
    details = Details(protocols[0], dataset, with_uncertainty=True, floors=floors)
    scores = evaluate(
        predictions, names, protocols=protocols, kinds=("annotated", "velodyne_raw"),
        measure=details.measure, collect=details.collect,
    )  # fmt: skip
    return scores, details


def score_plainly(
    predictions: Any, dataset: Any, *, protocols: Sequence, floors: bool
) -> dict[str, dict]:
    """The same by `reference_scoring`; rows by frame."""
    details = Details(protocols[0], dataset, with_uncertainty=True, floors=floors)
    return {
        one.frame_id: reference_frame(
            one, protocols, {kind: details.map_of(kind, one) for kind in details.uncertainty}
        )
        for one in predictions
    }


def refuse_other_numbers(scores: Any, details: Details, plain: dict[str, dict]) -> int:
    """How many rows are the same bits in both scorings; an error if one is not."""
    ours = {**scores, **details.uncertainty, **dict(zip(details.edges, details.ranges.values(),
                                                        strict=True))}  # fmt: skip
    count = 0
    for name, rows in plain.items():
        for key in rows.keys() & ours.keys():
            if ours[key].rows[name] != rows[key]:
                raise SystemExit(f"{name}, {key}: {ours[key].rows[name]} but plainly {rows[key]}")
            count += 1
    return count


def passes(
    dataset: Any, device: torch.device, args: argparse.Namespace, protocols: Sequence
) -> dict[str, Callable[[], Any]]:
    """The variants that have a network."""
    indices = range(args.frames)
    how = {"device": device, "batch_size": args.batch_size, "num_workers": args.workers}
    rest = {"dataset": dataset, "protocols": protocols, "floors": False}
    names = dataset.frame_ids[: args.frames]
    found: dict[str, Callable[[], Any]] = {}
    for name in args.networks:
        network = build_network(max_depth=80.0, **NETWORKS[name]).to(device).eval()
        predict = partial(network_predictions, network, dataset, indices, **how)
        found[f"{name}_plain"] = lambda predict=predict: score_plainly(predict(), **rest)
        found[name] = lambda predict=predict: score(predict(), names=names, **rest)
        found[f"{name}_bf16"] = lambda predict=predict: score(
            predict(precision="bf16"), names=names, **rest
        )
    return found


def scorings(
    kept: list[Prediction], dataset: Any, protocols: Sequence
) -> tuple[dict[str, Callable[[], Any]], int]:
    """The variants that have predictions already, and how many rows agree."""
    names = [one.frame_id for one in kept]
    found: dict[str, Callable[[], Any]] = {}
    count = 0
    for suffix, floors in (("", False), ("_floors", True)):
        how = {"dataset": dataset, "protocols": protocols, "floors": floors}
        plain = partial(score_plainly, kept, **how)
        ours = partial(score, kept, names=names, **how)
        count += refuse_other_numbers(*ours(), plain())
        found |= {f"scoring_plain{suffix}": plain, f"scoring{suffix}": ours}
    return found, count


def main(arguments: list[str] | None = None) -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--frames", type=int, default=6)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--batch-size", type=int, default=2)
    words.add_argument("--workers", type=int, default=0, help="loader processes of a pass")
    words.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    words.add_argument("--out", type=Path)
    args = words.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        write_frames(Path(folder), args.frames)
        dataset = Kitti(folder, "all")
        protocols = dataset.protocols(80.0)
        tiny = build_network(max_depth=80.0, **NETWORKS["tiny"]).to(device)
        frames = EvaluationFrames(dataset, range(args.frames), image_size=tiny.image_size)
        kept = list(network_predictions(
            tiny, dataset, range(args.frames), device=device, batch_size=2, num_workers=0
        ))  # fmt: skip
        parts, num_equal = scorings(kept, dataset, protocols)
        variants = {
            "decode": lambda: [frames[place] for place in range(args.frames)], **parts,
            **passes(dataset, device, args, protocols),
        }  # fmt: skip
        seconds, others = seconds_in_turn(variants, rounds=args.rounds, device=device)
    pairs = {
        name: name.replace("scoring", "scoring_plain") for name in parts if "plain" not in name
    }
    pairs |= {f"{name}{end}": f"{name}_plain" for name in args.networks for end in ("", "_bf16")}
    write_result({
        "frames": args.frames, "image": SIZE, "batch_size": args.batch_size,
        "workers": args.workers, "threads": torch.get_num_threads(), "rounds": args.rounds,
        "rows_of_equal_bits": num_equal,
        "frames_per_s": {
            name: summary([args.frames / s for s in values]) for name, values in seconds.items()
        },
        "times_faster": {
            name: {"than": base, **times_faster(seconds, than=base)[name]}
            for name, base in pairs.items()
        },
        "processors_busy_with_others": summary(others),
    }, device=device, out=args.out)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
