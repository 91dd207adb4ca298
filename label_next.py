"""Which frames to label next: those on which a trained network expects the largest errors.

    python label_next.py --ckpt runs/ours --num-frames 100 --out next.txt
    python label_next.py --ckpt runs/base --num-frames 50 --out lists/150.txt --keep-labeled \\
        unlabeled.dataset=rgbd unlabeled.root=/data unlabeled.split=pool unlabeled.depth_scale=1000

Ranks the `unlabeled` frames of the checkpoint's configuration, key=value words on top, that are
neither labelled yet nor kept for validation or tests. Writes a list that labeled.split takes, and
beside it a .csv with rank, frame, scene and score. No depth file is opened.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from dotmap import DotMap
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import DataError
from datasets.colours import as_image
from datasets.loading import start_worker
from datasets.pool import candidates, lines_of, same_place
from datasets.protocol import MIN_DEPTH
from datasets.splits import frame_ids_at
from datasets.views import resized
from evaluate import USER_ERRORS
from frames import Stream, open_frames, test_frames
from networks import DepthNetwork, DepthOutput, NetworkError, checkpoint_file, load_network
from utils.checkpoint import CheckpointError, load_checkpoint
from utils.command_line import add_config_arguments, run_script
from utils.config import ConfigError, saved_config
from utils.processes import start_process
from utils.selection import DEFAULT_MIN_GAP, scene_positions, select_frames

Score = Callable[[DepthOutput], Tensor]  # (B,) larger = label it sooner


def pictures(indices: Sequence[int], dataset: Any, image_size: tuple[int, int]) -> Tensor:
    """These frames in the size of the network, (B, 3, H, W) uint8; depth stays unread."""
    return torch.stack([resized(dataset.frame(i).image, image_size) for i in indices])


@torch.inference_mode()
def score_frames(
    network: DepthNetwork, stream: Stream, cfg: DotMap, *, score: Score, device: torch.device
) -> list[float]:
    """`score` of each frame of `stream`, with progress and the time left on stderr.

    Raises NetworkError if one is NaN or infinite, DataError on a damaged picture.
    """
    dataset, indices = stream
    batches = DataLoader(
        list(indices), batch_size=cfg.evaluation.batch_size, num_workers=cfg.train.num_workers,
        collate_fn=partial(pictures, dataset=dataset, image_size=network.image_size),
        pin_memory=device.type == "cuda", worker_init_fn=start_worker,
    )  # fmt: skip
    scores: list[float] = []
    with tqdm(total=len(indices), unit="frame") as progress:
        for batch in batches:
            image = as_image(batch.to(device, non_blocking=True))
            for value in score(network(image)).tolist():
                if not math.isfinite(value):
                    name = dataset.frame_ids[indices[len(scores)]]
                    raise NetworkError(f"the network predicts NaN for {name!r}; is it broken?")
                scores.append(value)
            progress.update(len(batch))
    return scores


def relative_score(output: DepthOutput) -> Tensor:
    """(B,) mean over pixels of u - ln(depth): the log of the expected error per metre of depth, but
    for a constant. Ours. By u alone, far streets would always come first: errors grow with depth.
    """
    log_depth = output.depth.double().clamp(min=MIN_DEPTH).log()
    return (output.log_uncertainty.double() - log_depth).mean(dim=(1, 2, 3))


def absolute_score(output: DepthOutput) -> Tensor:
    """(B,) mean over pixels of u: the log of the expected error in metres, but for a constant."""
    return output.log_uncertainty.double().mean(dim=(1, 2, 3))


def choose(
    pool: Any, parts: dict[str, list[int]], scores: Sequence[float], num_frames: int, min_gap: int
) -> list[tuple[int, float]]:
    """(index, score) of the frames to label, first choice first; see `select_frames`.

    Labelled frames of the pool count as chosen: their neighbours wait.
    """
    all_scenes = [pool.scene_of(name) for name in pool.frame_ids]
    positions = scene_positions(pool.frame_ids, all_scenes)
    ranked = parts["ranked"]
    chosen = select_frames(
        frame_ids=frame_ids_at(pool, ranked), scenes=[all_scenes[i] for i in ranked],
        positions=[positions[i] for i in ranked], scores=scores, num_frames=num_frames,
        min_gap=min_gap, taken=[(all_scenes[i], positions[i]) for i in parts["labelled"]],
    )  # fmt: skip
    return [(ranked[place], scores[place]) for place in chosen]


def write_list(
    path: Path, lines: Sequence[str], pool: Any, chosen: Sequence[tuple[int, float]]
) -> None:
    """`path`: the list; beside it, as .csv: rank from 1, frame, scene and score of `chosen`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with path.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "frame_id", "scene", "score"])
        for rank, (index, score) in enumerate(chosen, start=1):
            name = pool.frame_ids[index]
            writer.writerow([rank, name, pool.scene_of(name), score])


def open_streams(cfg: DotMap, *, keep_labeled: bool) -> tuple[Stream, Stream, Stream]:
    """Pool, labelled and validation frames; of their files only pictures are asked for.

    Raises DataError, also if the labelled frames are to be kept in a list that cannot name them.
    """
    cfg.unlabeled.list_sha256 = None  # the pool may have grown since the run
    budgets = {"unlabeled": "frames", "labeled": cfg.labeled.budget, "validation": None}
    pool, labeled, validation = (
        open_frames(cfg[name], seed=cfg.run.seed, budget=budget, roles=("image",))
        for name, budget in budgets.items()
    )
    one_list = same_place(pool[0], labeled[0]) and cfg.unlabeled.variant == cfg.labeled.variant
    if keep_labeled and not one_list:
        raise DataError(
            "--keep-labeled: one list cannot name the labelled frames, "
            f"{cfg.labeled.dataset} {labeled[0].root}, and the new ones, {cfg.unlabeled.dataset} "
            f"{pool[0].root}; leave it out"
        )
    return pool, labeled, validation


def read_config(args: argparse.Namespace, file: Path) -> DotMap:
    """The configuration that the run of checkpoint `file` was trained with, args' words on top."""
    if file.suffix == ".safetensors":
        raise CheckpointError(
            f"{args.ckpt}: has the network but not the run's configuration, which names the frames "
            "to rank; give the run folder or its .pt checkpoint"
        )
    # other frames than those of the run may be asked for; their lists are not insisted on then
    said = {word.split(".")[0] for word in args.overrides}
    asked = [f"{name}.list_sha256=null" for name in ("labeled", "validation") if name in said]
    return saved_config(load_checkpoint(file)["config"], asked + args.overrides, place=str(file))


def check_request(args: argparse.Namespace, cfg: DotMap, network: DepthNetwork) -> None:
    """Raise an error of the user's for what can be known before any data are opened."""
    if network.uncertainty_head is None or not cfg.loss_weights.uncertainty:
        raise NetworkError(
            f"{args.ckpt}: this network has not learnt how sure it is; train one with "
            "network.uncertainty=true and loss_weights.uncertainty=1"
        )
    consistent = cfg.loss_weights.depth_consistency or cfg.loss_weights.feature_consistency
    places = {(cfg[name].dataset, cfg[name].root) for name in ("labeled", "unlabeled")}
    named = any(word.startswith("unlabeled.") for word in args.overrides)
    if len(places) > 1 and not consistent and not named:
        raise ConfigError(
            f"{args.ckpt}: the run had no unlabelled frames; say which to rank with "
            "unlabeled.dataset=... unlabeled.root=... unlabeled.split=..."
        )
    if args.out.suffix != ".txt":
        raise DataError(f"--out {args.out}: a list's name ends in .txt")
    if args.out.stem.startswith("test"):
        raise DataError(f"--out {args.out}: training takes it for a test list; name it otherwise")
    for path in (args.out, args.out.with_suffix(".csv")):
        if path.exists():
            raise DataError(f"--out: {path} is there already; choose another name or delete it")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="run folder or checkpoint file")
    parser.add_argument("--num-frames", type=int, required=True, help="how many to choose")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.txt", help="the new list")
    parser.add_argument(
        "--min-gap", type=int, default=DEFAULT_MIN_GAP, metavar="N",
        help="frames nearer than this to a labelled or chosen one of their scene come last "
        "(default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--score", choices=["relative", "absolute"], default="relative",
        help="expected error relative to depth, or in metres (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--keep-labeled", action="store_true", help="old labels first in the list")
    add_config_arguments(parser, default_file=None)
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    file = checkpoint_file(args.ckpt)
    cfg = read_config(args, file)
    process = start_process(cfg.run.device)
    network = load_network(file, device=process.device)
    check_request(args, cfg, network)
    pool, labeled, validation = open_streams(cfg, keep_labeled=args.keep_labeled)
    dataset = pool[0]
    parts = candidates(
        pool, labeled=labeled, validation=validation, may_share=cfg.validation.may_share,
        tests=frozenset(test_frames(cfg.unlabeled, pool)),
    )  # fmt: skip
    ranked = parts["ranked"]
    left_out = ", ".join(f"{len(part)} {name}" for name, part in parts.items() if name != "ranked")
    print(f"pool: {len(pool[1])} frames; left out: {left_out}; ranked: {len(ranked)}", flush=True)
    if not 1 <= args.num_frames <= len(ranked):
        raise DataError(
            f"--num-frames {args.num_frames}, but {len(ranked)} frames of the pool can be chosen "
            f"(left out: {left_out}); choose 1 to {len(ranked)}, or name a larger unlabeled.split"
        )
    score = relative_score if args.score == "relative" else absolute_score
    scores = score_frames(network, (dataset, ranked), cfg, score=score, device=process.device)
    chosen = choose(dataset, parts, scores, args.num_frames, args.min_gap)
    line = lines_of(dataset, cfg.unlabeled.split)
    lines = [line(index) for index, _ in chosen]
    if args.keep_labeled:
        lines = [*map(lines_of(labeled[0], cfg.labeled.split), labeled[1]), *lines]
    write_list(args.out, lines, dataset, chosen)
    print(summary(args.out, cfg, dataset, [index for index, _ in chosen]))
    return 0


def summary(out: Path, cfg: DotMap, pool: Any, chosen: Sequence[int]) -> str:
    """What was written and what to do with it, as plain text."""
    scenes = {pool.scene_of(name) for name in frame_ids_at(pool, chosen)}
    paths = [pool.paths(index).get("depth") for index in chosen]
    lacking = sum(path is None or not path.is_file() for path in paths)
    keys = ("dataset", "root", "variant", "depth_scale")
    words = [f"labeled.{k}={cfg.unlabeled[k]}" for k in keys if cfg.unlabeled[k] != cfg.labeled[k]]
    lines = [f"chosen: {len(chosen)} frames of {len(scenes)} scenes, written to {out}"]
    if lacking:
        lines.append(f"{lacking} of them have no depth file yet: add those before training")
    words = [f"labeled.split={out}", "labeled.num_frames=null", *words]
    return "\n".join([*lines, f"train with: {' '.join(words)}"])


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
