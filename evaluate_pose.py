"""How right the pose network of a self-supervised run is: metres, degrees, and the path it drives.

    python evaluate_pose.py --ckpt runs/video                   # the run's unlabelled frames
    python evaluate_pose.py --ckpt runs/video --split val
    python evaluate_pose.py --ckpt runs/video --split all unlabeled.dataset=images unlabeled.root=/drive

Every frame that has a next one and a known pose to it is scored, beside what never looks at pictures
(constant velocity, standing still). Writes <run>/pose/<split>/: pose.json, and trajectory.png, the
longest drives from above; prints the table. What the numbers are: utils/trajectory.py.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from dotmap import DotMap
from torch import Tensor

from datasets import DataError
from datasets.crop import cropped
from datasets.frame import Frame
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
    camera_positions,
    consecutive_runs,
    floors,
    pose_errors,
    scaled,
    snippet_ate,
)
from utils.trajectory_plot import TRUE, trajectory_plot

# OSError: a full disk, or a folder that may not be written, is the user's to mend
USER_ERRORS = (
    ConfigError, DataError, NetworkError, CheckpointError, DeviceError, TrajectoryError, OSError,
)  # fmt: skip
PREFIX = "self_supervision.pose_network."  # of its weights in the training state
NUM_THREADS = 4  # that read pictures
NUM_DRAWN = 3  # drives
COLUMNS = {  # of the printed table
    "translation_error_m": "trans. (m)",
    "rotation_error_deg": "rot. (deg)",
    "direction_error_deg": "dir. (deg)",
    "length_ratio": "scale",
    "ate_m": "ATE (m)",
    "scaled_ate_m": "scaled ATE (m)",
}


class Pair(NamedTuple):
    """A frame and the next, ready for the network: (3, H, W) float32 in [0, 1] each."""

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
    """Frame -> true pose to the next one, of the frames that have both. Opens no picture.

    Raises DataError if there is none.
    """
    dataset, indices = opened
    kind = type(dataset).__name__
    if not hasattr(dataset, "relative_pose"):
        raise DataError(f"{kind} knows no poses; evaluate on synthetic, kitti or images, say")
    poses = {index: dataset.relative_pose(index, 1) for index in indices}
    known = {index: pose for index, pose in poses.items() if pose is not None}
    if not known:
        raise DataError(
            f"none of the {len(indices)} frames of {kind} has a next frame and a known pose to it; "
            "poses are read from poses/<drive>/<camera>.txt (kitti) or poses.txt (images)"
        )
    return known


def read_pair(
    dataset: Any, index: int, *, image_size: tuple[int, int], crop: Sequence[float] | None
) -> Pair:
    """A frame and the next, brought to the network's size as in training. DataError if damaged."""

    def image(frame: Frame) -> Tensor:
        if crop is not None:
            picture, intrinsics = cropped(frame.image, frame.intrinsics, crop)
            frame = replace(frame, image=picture, intrinsics=intrinsics)
        return evaluation_image(frame, image_size)

    frame, following = dataset.frame(index), dataset.neighbour_frame(index, 1)
    return Pair(frame.frame_id, following.frame_id, image(frame), image(following))


@torch.inference_mode()
def predict_poses(
    network: PoseNetwork, pairs: Iterator[Pair], *, batch_size: int, device: torch.device
) -> tuple[np.ndarray, list[tuple[str, str]]]:
    """(n, 4, 4) float64 predicted poses, frame -> next, and the ids of the two."""
    poses, names = [], []
    while batch := list(islice(pairs, batch_size)):
        target, source = (
            torch.stack([getattr(pair, name) for pair in batch]).to(device)
            for name in ("target", "source")
        )
        poses.append(network(target, source).double().cpu().numpy())
        names += [(pair.frame_id, pair.next_frame_id) for pair in batch]
    return np.concatenate(poses), names


def score(
    predicted: np.ndarray, true: np.ndarray, runs: Sequence[int], *, length: int
) -> dict[str, dict[str, float]]:
    """`pose_errors` and, if a run is long enough, `snippet_ate`, of predictions and floors."""
    rows = {"predicted": predicted}
    ratio = pose_errors(predicted, true)["length_ratio"]
    if ratio > 0:  # not NaN either
        rows["median_scaled"] = scaled(predicted, 1 / ratio)
    rows |= floors(true)
    scores = {name: pose_errors(poses, true) for name, poses in rows.items()}
    if max(np.bincount(runs)) + 1 < length:
        print(f"no {length} consecutive frames, so no ATE; --snippet-frames sets another number")
        return scores
    return {
        name: {**scores[name], **snippet_ate(poses, true, length=length, runs=runs)}
        for name, poses in rows.items()
    }


def printed_table(scores: dict[str, dict[str, float]]) -> str:
    """The scores as plain text, a dash where there is none."""
    width = max(len(name) for name in scores)
    lines = [" " * width + "".join(f"{title:>16}" for title in COLUMNS.values())]
    for name, row in scores.items():
        values = (row.get(column, math.nan) for column in COLUMNS)
        cells = "".join(f"{'–' if math.isnan(x) else f'{x:.4f}':>16}" for x in values)
        lines.append(f"{name.replace('_', ' '):<{width}}{cells}")
    return "\n".join(lines)


def draw(
    predicted: np.ndarray, true: np.ndarray, runs: list[list[int]], names: list[tuple[str, str]],
    *, ratio: float,
) -> Any:  # fmt: skip
    """The longest runs from above: true, predicted, and predicted at the right scale."""
    drives = {}
    for run in sorted(runs, key=len, reverse=True)[:NUM_DRAWN]:
        paths = {TRUE: camera_positions(true[run]), "predicted": camera_positions(predicted[run])}
        if ratio > 0:
            paths["median-scaled"] = camera_positions(scaled(predicted[run], 1 / ratio))
        drives[f"{names[run[0]][0]}, {len(run) + 1} frames"] = paths
    return trajectory_plot(drives)


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        write(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="run folder or checkpoint file")
    parser.add_argument("--split", help="split or list of the unlabelled dataset (default: its own)")
    parser.add_argument("--out", type=Path, help="folder for results (default: in the run folder)")
    parser.add_argument(
        "--snippet-frames", type=int, default=SNIPPET_LENGTH, metavar="N",
        help="frames in a snippet of the ATE (default: %(default)s, as in KITTI odometry's tables)",
    )  # fmt: skip
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
    # all frames of the split in its order, whichever of them the run took
    words = ["unlabeled.list_sha256=null", "unlabeled.num_frames=null"]
    words += [f"unlabeled.split={args.split}"] * bool(args.split) + args.overrides
    cfg = saved_config(state["config"], words, place=str(file))
    stream, device = cfg.unlabeled, start_process(cfg.run.device).device
    opened = open_frames(stream, seed=cfg.run.seed, budget=None, roles=("image",))
    known = known_poses(opened)
    jobs = (
        partial(read_pair, opened[0], index, image_size=network.image_size, crop=stream.crop)
        for index in known
    )
    batch_size = cfg.evaluation.batch_size
    pairs = in_order(jobs, workers=NUM_THREADS, ahead=2 * batch_size)
    predicted, names = predict_poses(
        network.to(device), progress(pairs, len(known), unit="pair"),
        batch_size=batch_size, device=device,
    )  # fmt: skip
    true = np.stack(list(known.values()))
    runs = consecutive_runs(names)
    order = [place for run in runs for place in run]
    run_of = [number for number, run in enumerate(runs) for _ in run]
    scores = score(predicted[order], true[order], run_of, length=args.snippet_frames)
    result = {
        "checkpoint": str(file),
        "sha256": file_sha256(file),
        "step": state["step"],
        "dataset": stream.dataset,
        "variant": stream.variant,
        "split": stream.split,
        "list_sha256": stream.list_sha256,
        "num_test_frames": len(test_frames(stream, opened)),
        "num_frames": len(opened[1]),
        "num_pairs": len(known),
        "num_runs": len(runs),
        "crop": stream.crop,
        "image_size": list(network.image_size),
        "pose_encoder": trained.self_supervision.pose_encoder,
        "snippet_frames": args.snippet_frames,
        "errors": {
            name: {key: None if math.isnan(x) else x for key, x in row.items()}
            for name, row in scores.items()
        },
    }
    run_folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    if result["num_test_frames"]:
        ledger = run_folder.parent / "test_ledger.jsonl"
        count = append_to_ledger(ledger, {key: result[key] for key in result if key != "errors"})
        print(f"test frames: look number {count} at this list, entered in {ledger}")
    out = args.out or run_folder / "pose" / Path(stream.split).stem
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, allow_nan=False) + "\n"
    write_whole(out / "pose.json", lambda path: path.write_text(text))
    picture = draw(predicted, true, runs, names, ratio=scores["predicted"]["length_ratio"])
    write_whole(out / "trajectory.png", partial(picture.save, format="PNG"))
    print(
        f"{file} (step {state['step']}) on {stream.dataset} {stream.split}: {len(known)} pairs in "
        f"{len(runs)} runs; from frame to frame {scores['predicted']['true_length_m']:.3f} m\n"
        f"{printed_table(scores)}\nwritten to {out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
