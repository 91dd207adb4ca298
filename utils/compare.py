"""Is B better than A? Two methods on the same frames, each one run or several seeds.

    python -m utils.compare runs/base runs/ours                  # <run>/evaluation/val of both
    python -m utils.compare 'runs/base_s*' 'runs/ours_s*' --split test --resample scenes
    python -m utils.compare runs/base/evaluation/val other/val --metrics abs_rel d1 --json out.json

evaluate.py writes what is compared. Intervals: `utils.bootstrap`, 95 %. Frames of one drive are
near-duplicates, so intervals over images are too narrow; --resample scenes draws whole scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .bootstrap import MIN_DRAWN, difference_rows
from .command_line import run_script
from .config import ConfigError
from .evaluations import ComparisonError, Evaluation, check_alike, read_side, shared_ranges
from .metrics import METRIC_NAMES

RANGE_METRICS = ("abs_rel", "rmse", "d1")  # those of per_range.csv


def compare(
    a: str | Sequence[str | Path],
    b: str | Sequence[str | Path],
    *,
    split: str = "val",
    metrics: Sequence[str] = METRIC_NAMES,
    resample: str = "images",
    num_resamples: int = 10_000,
    seed: int = 0,
) -> dict:
    """Differences B - A of the first protocol's metrics, over all images, by range and by scene.

    Args:
        a, b: evaluation folder, run folder, or a pattern or list of several (seeds of one method).
        split: folder below <run>/evaluation, where run folders are given.
        metrics: names of METRIC_NAMES; ranges have those of RANGE_METRICS among them.
        resample: "images", or "scenes": whole scenes are drawn, for frames that are near-duplicates
            of each other. Rows of one scene always draw its images.
        num_resamples: replicates of each interval.
        seed: of the replicates.

    Returns:
        Plain values, ready for JSON. "metrics": name -> row; "ranges": range in metres -> name ->
        row; "scenes": scene -> row of abs_rel, smallest difference first; "notes": sentences. A row
        has mean_a, mean_b, difference (B - A), relative (of mean_a; None if that is 0), low and
        high (None with fewer than 5 images, or scenes, to draw), b_better_share (of the images,
        ties count as not better), num_images, and the verdict: "B better", "A better",
        "no difference shown" or "too few to say".

    Raises:
        ComparisonError: a file is missing, frames, protocol or scored pixels differ, there are no
            scenes to draw, or an argument is none of the above.
        ConfigError: a run's config.yaml is not YAML.
    """
    _check_arguments(metrics, resample, num_resamples, seed)
    sides = read_side(a, split), read_side(b, split)
    everyone = [*sides[0], *sides[1]]
    frame_ids = check_alike(everyone)
    sides, paired = _in_pairs(*sides)
    scenes = _scenes(everyone[0])
    if resample == "scenes" and not scenes:
        raise ComparisonError(
            f"{everyone[0].folder}/per_image.csv has no column 'scene'; evaluate again with this "
            "version, or use --resample images"
        )
    options = {"paired_runs": paired, "num_resamples": num_resamples, "seed": seed}

    def rows(ids, names, *, depth_range=None, of_scenes=False) -> dict[str, dict]:
        stacks = [
            np.stack([run.values(ids, names, depth_range=depth_range) for run in side])
            for side in sides
        ]
        groups = np.unique([scenes[i] for i in ids], return_inverse=True)[1] if of_scenes else None
        return difference_rows(*stacks, names, groups=groups, **options)

    whole = {"of_scenes": resample == "scenes"}
    ranges = shared_ranges(everyone)
    range_names = [name for name in RANGE_METRICS if name in metrics]
    by_scene = {
        scene: rows([i for i in frame_ids if scenes[i] == scene], ["abs_rel"])["abs_rel"]
        for scene in sorted(set(scenes.values()))
    }
    return {
        "a": [str(run.folder) for run in sides[0]],
        "b": [str(run.folder) for run in sides[1]],
        "protocol": everyone[0].protocol,
        "num_images": len(frame_ids),
        "num_scenes": len(by_scene) or None,
        "resample": resample,
        "num_resamples": num_resamples,
        "seed": seed,
        "paired_runs": paired,
        "metrics": rows(frame_ids, list(metrics), **whole),
        "ranges": {
            name: rows(ids, range_names, depth_range=name, **whole) if range_names else {}
            for name, ids in ranges.items()
        },
        "scenes": dict(sorted(by_scene.items(), key=lambda item: item[1]["difference"])),
        "notes": _notes(sides, paired, resample, bool(ranges), bool(scenes)),
    }


def _check_arguments(metrics: Sequence[str], resample: str, num_resamples: int, seed: int) -> None:
    if unknown := [name for name in metrics if name not in METRIC_NAMES]:
        raise ComparisonError(f"no metric {unknown[0]!r}; choose of {', '.join(METRIC_NAMES)}")
    if not metrics or len(set(metrics)) < len(metrics):
        raise ComparisonError("metrics: name at least one, each once")
    if resample not in ("images", "scenes"):
        raise ComparisonError(f"resample is {resample!r}; choose 'images' or 'scenes'")
    if num_resamples < 100 or seed < 0:
        raise ComparisonError(
            f"need at least 100 resamples and a seed of at least 0, got {num_resamples} and {seed}"
        )


def _in_pairs(
    a: list[Evaluation], b: list[Evaluation]
) -> tuple[tuple[list[Evaluation], list[Evaluation]], bool]:
    """Both sides, in the order of what pairs their runs (the folder, else the seed), and whether
    something does. One run a side is a pair: neither is drawn."""
    for key in (lambda run: run.folder.resolve(), lambda run: run.seed):
        ones, others = [key(run) for run in a], [key(run) for run in b]
        known = None not in (*ones, *others)
        if known and len(set(ones)) == len(a) and sorted(ones) == sorted(others):
            return (sorted(a, key=key), sorted(b, key=key)), True
    return (a, b), len(a) == len(b) == 1


def _scenes(run: Evaluation) -> dict[str, str]:
    """Frame id -> scene; empty where the table does not say."""
    scenes = {name: row.get("scene") for name, row in run.images.items()}
    return scenes if all(scenes.values()) else {}


def _notes(
    sides: Sequence[list[Evaluation]], paired: bool, resample: str, ranges: bool, scenes: bool
) -> list[str]:
    """What a reader of the intervals has to know, a sentence each."""
    counts = [len(side) for side in sides]
    notes = [f"intervals are 95 %, each for its row alone; {resample} drawn alike for A and B"]
    if max(counts) > 1:
        how = "in pairs of one seed" if paired else "for A and B apart (their seeds do not pair)"
        notes.append(f"runs drawn {how}")
    if min(counts) == 1:
        notes.append("a method with one run: how much another seed changes is not in the intervals")
    if resample == "images":
        notes.append(
            "frames of one scene (drive) are near-duplicates, so intervals over images are too "
            "narrow; --resample scenes draws whole scenes"
        )
    if scenes:
        notes.append(f"by scene: its images are drawn; * fewer than {MIN_DRAWN} of them")
    if not (ranges and scenes):
        missing = " and ".join(["by depth range"] * (not ranges) + ["by scene"] * (not scenes))
        notes.append(f"no table {missing}: an evaluation has none; evaluate again to get it")
    return notes


def report(result: dict) -> str:
    """The dictionary of `compare` as plain text."""
    by_range = {
        f"{span} m, {name}": row
        for span, part in result["ranges"].items()
        for name, row in part.items()
    }
    by_scene = {
        f"{scene}{' *' * (row['num_images'] < MIN_DRAWN)}": row
        for scene, row in result["scenes"].items()
    }
    parts = {"": result["metrics"], "by depth range": by_range, "abs_rel by scene": by_scene}
    lines = [f"{side.upper()}: {', '.join(result[side])}" for side in ("a", "b")]
    lines.append(f"{result['num_images']} images, protocol {result['protocol']}")
    for title, rows in parts.items():
        if rows:
            lines += ["", *_table(title, rows)]
    return "\n".join([*lines, "", *(f"- {note}" for note in result["notes"])])


def _table(title: str, rows: dict[str, dict]) -> list[str]:
    width = max(len(name) for name in (title, *rows))
    heads = f"{'mean A':>10}{'mean B':>10}{'B - A':>10}{'relative':>10}{'95 % interval':>22}"
    lines = [f"{title:<{width}}{heads}{'B better':>10}{'images':>8}  verdict"]
    for name, row in rows.items():
        interval = "-" if row["low"] is None else f"{row['low']:+.4f} to {row['high']:+.4f}"
        relative = "-" if row["relative"] is None else f"{100 * row['relative']:+.1f} %"
        lines.append(
            f"{name:<{width}}{row['mean_a']:>10.4f}{row['mean_b']:>10.4f}{row['difference']:>+10.4f}"
            f"{relative:>10}{interval:>22}{100 * row['b_better_share']:>8.0f} %"
            f"{row['num_images']:>8}  {row['verdict']}"
        )
    return lines


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m utils.compare", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    kinds = "evaluation folder, run folder, or quoted pattern of several seeds"
    parser.add_argument("a", metavar="A", help=kinds)
    parser.add_argument("b", metavar="B", help=kinds)
    parser.add_argument("--split", default="val", help="of run folders (default: %(default)s)")
    parser.add_argument("--metrics", nargs="+", default=METRIC_NAMES, metavar="NAME")
    parser.add_argument("--resample", choices=["images", "scenes"], default="images")
    parser.add_argument("--num-resamples", type=int, default=10_000, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers here")
    args = parser.parse_args(arguments)
    result = compare(
        args.a, args.b, split=args.split, metrics=args.metrics, resample=args.resample,
        num_resamples=args.num_resamples, seed=args.seed,
    )  # fmt: skip
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
    print(report(result))
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, (ComparisonError, ConfigError)))
