"""Evaluation: the same function that validates during training, so the numbers are the same too.

    python evaluate.py --ckpt runs/base_train                # its validation frames
    python evaluate.py --ckpt runs/base_train --split test --floors
    python evaluate.py --ckpt FILE.pt --split test validation.dataset=kitti validation.root=/kitti

Writes <run>/evaluation/<split>/{metrics.json, per_image.csv, panels/*.png} and prints the table.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dotmap import DotMap
from PIL import Image

from datasets import DATASETS, DataError
from datasets.loading import EvaluationFrames, evaluation_batches
from datasets.protocol import EvalProtocol
from datasets.splits import check_files, evenly, frame_ids_at, label_budget, list_sha256
from datasets.views import evaluation_view, nearest_resize
from networks import DepthNetwork, DepthOutput, NetworkError, checkpoint_file, load_network
from utils.checkpoint import CheckpointError, file_sha256, load_checkpoint
from utils.command_line import add_config_arguments, run_script
from utils.config import ConfigError, saved_config
from utils.floors import constant_floor, per_pixel_mean_floor, score_floors
from utils.metrics import METRIC_NAMES, DepthMetrics, table
from utils.processes import DeviceError, DisagreementError, Process, start_process
from utils.visualize import contact_sheet, panel

USER_ERRORS = (
    ConfigError, DataError, NetworkError, CheckpointError, DeviceError, DisagreementError
)  # fmt: skip
NUM_FLOOR_FRAMES = 500  # labelled frames from which the floors are taken, evenly spaced


@torch.inference_mode()
def evaluate(
    network: DepthNetwork,
    dataset: Any,
    indices: Sequence[int],
    *,
    protocols: Sequence[EvalProtocol],
    process: Process,
    batch_size: int,
    num_workers: int,
    on_image: Callable[[int, dict, DepthOutput], None] | None = None,
) -> dict[tuple[str, bool], DepthMetrics]:
    """Score every frame of `indices` exactly once, in one pass, under every protocol.

    The network runs in float32 whatever it was trained in. Predictions are brought to the stored
    size of the ground truth, bilinear with half-pixel corners; ground truth is never touched.

    Args:
        network: put in eval mode here and given back in the mode it came in.
        on_image: called for each frame of this process with its place in `indices`, its entry of
            `evaluation_view`, and the network's output for it at the size of the ground truth.

    Returns:
        Scores of all processes together by (protocol name, median-scaled or metric).

    Raises:
        ValueError: a frame was scored twice, not at all, or predicted as NaN.
    """
    scores = {
        (p.name, scaled): DepthMetrics(
            min_depth=p.min_depth, max_depth=p.max_depth, median_scaled=scaled
        )
        for p in protocols
        for scaled in (False, True)
    }
    places = range(process.rank, len(indices), process.world_size)  # no padding, nothing dropped
    view = partial(evaluation_view, image_size=network.image_size)
    frames = EvaluationFrames(dataset, [indices[place] for place in places], view=view)
    was_training = network.training
    network.eval()
    remaining = iter(places)
    for batch in evaluation_batches(frames, batch_size=batch_size, num_workers=num_workers):
        output = network(batch["image"].to(process.device))
        for row, (name, depth) in enumerate(zip(batch["frame_id"], batch["depth"], strict=True)):
            one = output.of_image(row).resized(depth.shape[-2:])
            prediction = one.depth[0].cpu()
            for p in protocols:
                mask = p.valid_mask(depth)
                for scaled in (False, True):
                    scores[p.name, scaled].update(
                        name=name, prediction=prediction, depth=depth, valid_mask=mask
                    )
            if on_image is not None:
                entry = {"image": batch["image"][row], "depth": depth, "frame_id": name}
                on_image(next(remaining), entry, one)
    network.train(was_training)
    scores = {key: collected.reduce_over_ranks() for key, collected in scores.items()}
    for collected in scores.values():
        collected.check_complete(frame_ids_at(dataset, indices))
    return scores


def open_frames(
    stream: DotMap,
    *,
    seed: int,
    shuffled: bool,
    roles: Sequence[str] = ("image", "depth"),
    exclude: Collection[Path] = (),
) -> tuple[Any, list[int]]:
    """The dataset of a config section, checked to be all there, and the indices that are used.

    Writes the list's sha256 into the section, or insists on the one that stands there.

    Args:
        stream: section with dataset, root, split, variant, depth_scale, num_frames, list_sha256; of
            labels also budget.
        seed: of the label budget.
        shuffled: True takes the first num_frames of the seeded shuffle (a label budget), False
            those of the list.
        roles: files that every frame must have.
        exclude: pictures, by resolved path, whose frames are left out.

    Raises:
        DataError: a file is missing, no frame is left, or the list is not the one insisted on.
    """
    dataset = DATASETS[stream.dataset](
        stream.root, stream.split, variant=stream.variant, depth_scale=stream.depth_scale
    )
    check_files(dataset, roles)
    indices = list(range(len(dataset)))[: stream.num_frames]
    if shuffled:
        by_scene = stream.toDict().get("budget") == "scenes"
        scene_of = dataset.scene_of if by_scene else None
        indices = label_budget(dataset.frame_ids, stream.num_frames, seed, scene_of=scene_of)
    if exclude:
        indices = [i for i in indices if dataset.paths(i)["image"].resolve() not in exclude]
        if not indices:
            raise DataError(f"{stream.dataset} {stream.split}: every frame of it is left out")
    used = list_sha256(frame_ids_at(dataset, indices))
    if stream.list_sha256 not in (None, used):
        raise DataError(
            f"{stream.dataset} {stream.split} under {stream.root} has other frames than asked for: "
            f"list_sha256 is {used}, not {stream.list_sha256}"
        )
    stream.list_sha256 = used
    return dataset, indices


def trivial_floors(
    labeled: tuple[Any, Sequence[int]], evaluated: tuple[Any, Sequence[int]], protocol: EvalProtocol
) -> dict[str, dict[str, float]]:
    """Scores of predictions that never look at the image (see `utils.floors`).

    Args:
        labeled: dataset and indices whose ground truth they know.
        evaluated: dataset and indices that they are scored on.
    """
    dataset, indices = labeled
    chosen = evenly(indices, NUM_FLOOR_FRAMES)

    def known() -> Iterator[np.ndarray]:
        for index in chosen:
            # a broken frame has been reported, and replaced where that was asked for, in training
            with contextlib.suppress(DataError):
                yield nearest_resize(dataset.frame(index).depth(), dataset.depth_size)

    def asked() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for index in evaluated[1]:
            frame = evaluated[0].frame(index)
            depth = frame.depth()
            yield frame.frame_id, depth, protocol.valid_mask(depth)

    bounds = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth}
    return score_floors(
        asked(),
        constant=constant_floor(known(), **bounds),
        per_pixel_mean=per_pixel_mean_floor(known(), **bounds),
        **bounds,
    )


@torch.inference_mode()
def write_samples(
    path: Path, network: DepthNetwork, dataset: Any, indices: Sequence[int], *, device: torch.device
) -> None:
    """One PNG with a panel per frame: image, ground truth, prediction, error, uncertainty."""
    was_training = network.training
    network.eval()
    panels = []
    for index in indices:
        entry = evaluation_view(dataset.frame(index), image_size=network.image_size)
        output = network(entry["image"][None].to(device)).resized(entry["depth"].shape[-2:])
        panels.append(panel_of(entry, output))
    network.train(was_training)
    path.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(panels).save(path)


def panel_of(entry: dict, output: DepthOutput) -> Image.Image:
    """`entry` of `evaluation_view` beside the network's output for it, already at its size."""
    uncertainty = output.log_uncertainty
    return panel(
        image=entry["image"].numpy(),
        depth=entry["depth"].numpy(),
        prediction=output.depth[0].cpu().numpy(),
        log_uncertainty=None if uncertainty is None else uncertainty[0].cpu().numpy(),
        title=entry["frame_id"],
    )


def write_per_image(path: Path, scores: DepthMetrics) -> None:
    """One line a frame: its name, the nine metrics, the number of scored pixels."""
    columns = (*METRIC_NAMES, "num_valid")
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["frame_id", *columns])
        writer.writerows([name, *(row[c] for c in columns)] for name, row in scores.rows.items())


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ckpt", required=True, help="run folder or checkpoint file")
    parser.add_argument(
        "--split", help="split or list of the validation dataset (default: its own)"
    )
    parser.add_argument("--out", type=Path, help="folder for results (default: in the run folder)")
    parser.add_argument("--floors", action="store_true", help="also score what ignores the image")
    add_config_arguments(parser, default_file=None)
    return parser.parse_intermixed_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    file = checkpoint_file(args.ckpt)
    state = load_checkpoint(file)
    words = [f"validation.split={args.split}"] * bool(args.split) + args.overrides
    if any(word.startswith("validation.") for word in words):
        # other frames than those of the run are asked for, so its list is not insisted on
        words.insert(0, "validation.list_sha256=null")
    cfg = saved_config(state["config"], words, place=str(file))
    process = start_process(cfg.run.device)
    network = load_network(file, device=process.device)
    dataset, indices = open_frames(cfg.validation, seed=cfg.run.seed, shuffled=False)
    protocols = dataset.protocols(network.max_depth)
    run_folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    out = args.out or run_folder / "evaluation" / Path(cfg.validation.split).stem
    (out / "panels").mkdir(parents=True, exist_ok=True)
    shown = set(evenly(range(len(indices)), cfg.evaluation.num_panels))

    def on_image(place: int, entry: dict, output: DepthOutput) -> None:
        if place in shown:
            panel_of(entry, output).save(out / "panels" / f"{place:05d}.png")

    scores = evaluate(
        network, dataset, indices, protocols=protocols, process=process,
        batch_size=cfg.evaluation.batch_size, num_workers=cfg.train.num_workers, on_image=on_image,
    )  # fmt: skip
    if process.is_main:
        result = {
            "checkpoint": str(file),
            "sha256": file_sha256(file),
            "step": state["step"],
            "dataset": cfg.validation.dataset,
            "split": cfg.validation.split,
            "list_sha256": cfg.validation.list_sha256,
            "num_images": len(indices),
            "image_size": list(network.image_size),
            "resize": "prediction to the ground truth's stored size, bilinear, half-pixel corners",
            "protocols": {p.name: scores[p.name, False].mean() for p in protocols},
            "median_scaled": {p.name: scores[p.name, True].mean() for p in protocols},
            "uncertainty": None,
        }
        rows = dict(result["protocols"])
        rows |= {f"{name}, median-scaled": row for name, row in result["median_scaled"].items()}
        if args.floors:
            labeled = open_frames(cfg.labeled, seed=cfg.run.seed, shuffled=True)
            result["floors"] = trivial_floors(labeled, (dataset, indices), protocols[0])
            rows |= {f"floor: {name}": row for name, row in result["floors"].items()}
        (out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
        write_per_image(out / "per_image.csv", scores[protocols[0].name, False])
        print(f"{file} (step {state['step']}) on {cfg.validation.dataset} {cfg.validation.split}")
        print(f"{table(rows)}\nwritten to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
