"""How right the pose network of a self-supervised run is: metres, degrees, and the path it drives.

    python evaluate_pose.py --ckpt runs/video                   # the run's unlabelled frames
    python evaluate_pose.py --ckpt runs/video --split val
    python evaluate_pose.py --ckpt runs/video --split all unlabeled.dataset=images \\
        unlabeled.root=/drive

Every frame that has a next one and a known pose to it is scored, beside what never looks at any
picture (constant velocity, standing still). Writes <run>/pose/<split>/: pose.json, and
trajectory.png, the longest drives from above; prints the table. What the numbers mean is said in
utils/trajectory.py. A look at test frames is entered in test_ledger.jsonl beside the runs.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from dotmap import DotMap
from torch import Tensor

from datasets import DataError
from datasets.views import evaluation_image
from frames import Stream, open_frames, test_frames
from networks import NetworkError, checkpoint_file
from networks.pose_network import PoseNetwork, build_pose_network
from utils.checkpoint import CheckpointError, file_sha256, load_checkpoint
from utils.command_line import add_config_arguments, run_script
from utils.config import ConfigError, saved_config
from utils.ledger import append_to_ledger
from utils.processes import DeviceError, start_process
from utils.progress import progress
from utils.threads import in_order
from utils.trajectory import (
    SNIPPET_LENGTH,
    TrajectoryError,
    consecutive_runs,
    pose_table,
    score_poses,
)
from utils.trajectory_plot import longest_runs, trajectory_plot

# OSError: a full disk, or a folder that may not be written, is the user's to mend
USER_ERRORS = (
    ConfigError, DataError, NetworkError, CheckpointError, DeviceError, TrajectoryError, OSError,
)  # fmt: skip
PREFIX = "self_supervision.pose_network."  # of its weights in the training state
NUM_THREADS = 4  # that read pictures


class Pair(NamedTuple):
    """A frame and the next, ready for the network: pictures (3, H, W) float32 in [0, 1]."""

    frame_id: str
    next_frame_id: str
    target: Tensor
    source: Tensor


def pose_network_of(state: dict[str, Any], cfg: DotMap, *, place: str) -> PoseNetwork:
    """The pose network that a checkpoint holds, in eval mode.

    Raises NetworkError if it holds none, or one that its own configuration does not describe.
    """
    weights = state["step_module"]
    weights = {k.removeprefix(PREFIX): v for k, v in weights.items() if k.startswith(PREFIX)}
    if not weights:
        raise NetworkError(
            f"{place}: no pose network in it. One is trained with loss_weights.photometric above "
            "0, self_supervision.sources=video (or both) and self_supervision.poses=predicted"
        )
    network = build_pose_network(
        encoder=cfg.self_supervision.pose_encoder, image_size=tuple(cfg.network.image_size)
    )
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise NetworkError(
            f"{place}: its pose network does not fit its own configuration: {error}"
        ) from error
    return network.eval()


def known_poses(opened: Stream) -> dict[int, np.ndarray]:
    """Index -> true pose to the next frame, of the frames that have both. Opens no picture.

    Raises DataError if there is none.
    """
    dataset, indices = opened
    kind = type(dataset).__name__
    if not hasattr(dataset, "relative_pose"):
        raise DataError(f"{kind} knows no poses; synthetic, kitti, virtual_kitti and images do")
    poses = {index: dataset.relative_pose(index, 1) for index in indices}
    known = {index: pose for index, pose in poses.items() if pose is not None}
    if not known:
        raise DataError(
            f"none of the {len(indices)} frames of {kind} has a next frame and a known pose to it; "
            "poses are in poses/<drive>/<camera>.txt (kitti), poses.txt (images), extrinsic.txt "
            "(virtual_kitti)"
        )
    return known


def read_pair(
    dataset: Any, index: int, *, image_size: tuple[int, int], crop: Sequence[float] | None
) -> Pair:
    """A frame and the next, cropped and resized as in training. DataError if one is damaged."""
    frame, following = dataset.frame(index), dataset.neighbour_frame(index, 1)
    target, source = (evaluation_image(one, image_size, crop) for one in (frame, following))
    return Pair(frame.frame_id, following.frame_id, target, source)


@torch.inference_mode()
def predict_poses(
    network: PoseNetwork, pairs: Iterator[Pair], *, batch_size: int, device: torch.device
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """(n, 4, 4) float64 predicted poses, frame -> next, in metres, and the ids of the two."""
    network.to(device)
    poses, names = [], []
    while batch := list(islice(pairs, batch_size)):
        target, source = (
            torch.stack([getattr(pair, name) for pair in batch]).to(device)
            for name in ("target", "source")
        )
        poses.append(network(target, source).double().cpu().numpy())
        names += [(pair.frame_id, pair.next_frame_id) for pair in batch]
    return np.concatenate(poses), names


def write_results(
    out: Path, facts: Mapping[str, Any], scores: Mapping[str, Mapping[str, float]], picture: Any
) -> None:
    """pose.json, null where a number is not defined, and trajectory.png; whole or not at all."""
    errors = {
        name: {key: None if math.isnan(x) else x for key, x in row.items()}
        for name, row in scores.items()
    }
    text = json.dumps({**facts, "errors": errors}, indent=2, allow_nan=False) + "\n"
    out.mkdir(parents=True, exist_ok=True)
    for name, write in (
        ("pose.json", lambda path: path.write_text(text)),
        ("trajectory.png", partial(picture.save, format="PNG")),
    ):
        temporary = out / f"{name}.tmp.{os.getpid()}"
        try:
            write(temporary)
            temporary.replace(out / name)
        finally:
            temporary.unlink(missing_ok=True)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ckpt", required=True, help="run folder or checkpoint file")
    add("--split", help="split or list of the unlabelled dataset (default: its own)")
    add("--out", type=Path, help="folder for results (default: in the run folder)")
    add("--snippet-frames", type=int, default=SNIPPET_LENGTH, metavar="N",
        help="frames in a snippet of the ATE (default: %(default)s)")  # fmt: skip
    add_config_arguments(parser, default_file=None)
    args = parser.parse_intermixed_args(arguments)
    if args.snippet_frames < 2:
        parser.error(f"--snippet-frames {args.snippet_frames}: must be at least 2")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    file = checkpoint_file(args.ckpt)
    if file.suffix == ".safetensors":
        raise NetworkError(f"{file}: an export holds no pose network; name the run or checkpoint")
    state = load_checkpoint(file)
    trained = saved_config(state["config"], place=str(file))
    network = pose_network_of(state, trained, place=str(file))
    # all frames of the split, whichever of them the run took
    words = ["unlabeled.list_sha256=null", "unlabeled.num_frames=null"]
    words += [f"unlabeled.split={args.split}"] * bool(args.split) + args.overrides
    cfg = saved_config(state["config"], words, place=str(file))
    stream, batch_size = cfg.unlabeled, cfg.evaluation.batch_size
    device = start_process(cfg.run.device).device
    opened = dataset, indices = open_frames(
        stream, seed=cfg.run.seed, budget=None, roles=("image",)
    )
    known = known_poses(opened)
    read = partial(read_pair, dataset, image_size=network.image_size, crop=stream.crop)
    pairs = in_order((partial(read, i) for i in known), workers=NUM_THREADS, ahead=2 * batch_size)
    pairs = progress(pairs, len(known), unit="pair")
    predicted, names = predict_poses(network, pairs, batch_size=batch_size, device=device)
    true, runs = np.stack(list(known.values())), consecutive_runs(names)
    order = [place for run in runs for place in run]
    scores = score_poses(
        predicted[order], true[order], length=args.snippet_frames,
        runs=[number for number, run in enumerate(runs) for _ in run],
    )  # fmt: skip
    facts = {
        "checkpoint": str(file),
        "sha256": file_sha256(file),
        "step": state["step"],
        "image_size": list(network.image_size),
        "pose_encoder": trained.self_supervision.pose_encoder,
        **{key: stream[key] for key in ("dataset", "variant", "split", "list_sha256", "crop")},
        "num_test_frames": len(test_frames(stream, opened)),
        "num_frames": len(indices),
        "num_pairs": len(known),
        "num_runs": len(runs),
        "snippet_frames": args.snippet_frames,
    }
    run_folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    if facts["num_test_frames"]:
        ledger = run_folder.parent / "test_ledger.jsonl"
        count = append_to_ledger(ledger, {**facts, "scored": "poses"})
        print(f"test frames: look number {count} at this list, entered in {ledger}")
    out = args.out or run_folder / "pose" / Path(stream.split).stem
    ratio = scores["predicted"]["length_ratio"]
    picture = trajectory_plot(longest_runs(predicted, true, runs=runs, names=names, ratio=ratio))
    write_results(out, facts, scores, picture)
    print(f"{file} (step {state['step']}) on {stream.dataset} {stream.split}")
    length = scores["predicted"]["true_length_m"]
    print(f"{len(known)} pairs in {len(runs)} runs, {length:.3f} m from frame to frame")
    if "ate_m" not in scores["predicted"]:
        print(f"no run has {args.snippet_frames} consecutive frames, so no ATE (--snippet-frames)")
    print(f"{pose_table(scores)}\nwritten to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
