"""Evaluation: the same function that validates during training, so the numbers are the same too.

    python evaluate.py --ckpt runs/base_train                # its validation frames
    python evaluate.py --ckpt runs/base_train --split test --floors
    python evaluate.py --ckpt FILE.pt --split test validation.dataset=kitti validation.root=/kitti
    python evaluate.py --predictions PNGS --conf conf/base_train_kitti.yaml --split test
    python evaluate.py --ckpt runs/kitti --export kitti-server --images PICTURES --out submission
    torchrun --standalone --nproc-per-node 4 evaluate.py --ckpt runs/base_train

One pass of predictions, scored under every protocol and on every ground truth that the data has.
Writes <run>/evaluation/<split>/: metrics.json, report.html, per_image.csv, per_range.csv, plots and
panels; prints the table. A look at test frames is entered in test_ledger.jsonl beside the runs.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets import DataError
from datasets.kitti_server import server_images, write_server_zip
from datasets.prediction_files import png_names, write_depth_png, write_description
from datasets.protocol import EvalProtocol
from datasets.splits import evenly, frame_ids_at
from datasets.views import nearest_resize
from evaluation_details import Details, Scores, matrix, printed_table
from evaluation_report import write_metrics, write_panels, write_plots, write_report, write_tables
from frames import Stream, official_list, open_frames, test_frames
from networks import NetworkError
from predictions import Prediction, ground_truth_kinds
from subject import Subject, fitted_scale, open_subject, scale_in
from utils.checkpoint import CheckpointError
from utils.command_line import add_config_arguments, run_script
from utils.config import ConfigError
from utils.floors import constant_floor, per_pixel_mean_floor, score_floors
from utils.kitti_devkit import devkit_errors
from utils.ledger import append_to_ledger
from utils.metrics import DepthMetrics, MetricsError
from utils.processes import DeviceError, DisagreementError

USER_ERRORS = (
    ConfigError, DataError, NetworkError, CheckpointError, DeviceError, DisagreementError,
    MetricsError,
)  # fmt: skip
NUM_FLOOR_FRAMES = 500  # labelled frames from which the floors are taken, evenly spaced


@torch.inference_mode()
def evaluate(
    predictions: Iterable[Prediction],
    frame_ids: Sequence[str],
    *,
    protocols: Sequence[EvalProtocol],
    kinds: Sequence[str],
    scalings: Sequence[bool] = (False, True),
    on_prediction: Callable[[Prediction], None] | None = None,
) -> Scores:
    """Score every frame exactly once, in one pass, under every protocol and on each ground truth.

    Args:
        predictions: of this process's share of the frames; see `predictions`.
        frame_ids: all frames, of all processes.
        kinds: of ground truth, the dataset's own first; every frame has that one.
        scalings: metric depth (False), scaled to the ground truth's median (True), or both.
        on_prediction: called with each prediction of this process after it was scored.

    Returns:
        Scores of all processes together, the same on each.

    Raises:
        MetricsError: a frame was scored twice, not at all, or predicted as NaN.
    """
    scores = {
        (kind, p.name, scaled): DepthMetrics(
            min_depth=p.min_depth, max_depth=p.max_depth, median_scaled=scaled,
            formulas=devkit_errors if p.devkit else None,
        )
        for kind in kinds for p in protocols for scaled in scalings if not (p.devkit and scaled)
    }  # fmt: skip
    for one in predictions:
        for kind, depth in one.ground_truths.items():
            masks = {p.name: p.valid_mask(depth) for p in protocols}
            for (scored_kind, name, _), metrics in scores.items():
                if scored_kind == kind:
                    metrics.update(
                        name=one.frame_id, prediction=one.depth, depth=depth, valid_mask=masks[name]
                    )
        if on_prediction is not None:
            on_prediction(one)
    scores = {key: collected.reduce_over_ranks() for key, collected in scores.items()}
    for (kind, _, _), collected in scores.items():
        if kind == kinds[0]:
            collected.check_complete(frame_ids)
    return scores


def trivial_floors(
    labeled: Stream, evaluated: Stream, protocol: EvalProtocol
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
                yield nearest_resize(own_ground_truth(dataset, index), dataset.depth_size)

    def asked() -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        for index in evaluated[1]:
            depth = own_ground_truth(evaluated[0], index)
            yield evaluated[0].frame_ids[index], depth, protocol.valid_mask(depth)

    bounds = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth}
    return score_floors(
        asked(),
        constant=constant_floor(known(), **bounds),
        per_pixel_mean=per_pixel_mean_floor(known(), **bounds),
        **bounds,
    )


def own_ground_truth(dataset: Any, index: int) -> np.ndarray:
    """The dataset's own ground truth of a frame, (H, W) float32 metres; no picture is opened."""
    return next(iter(dataset.ground_truths(index).values()))()


def fitting_protocols(subject: Subject, opened: Stream) -> list[EvalProtocol]:
    """The dataset's protocols that are defined on its ground truth and on these predictions.

    Those left out are named: KITTI's window on frames that are smaller, and protocols without a
    crop where predictions are windows, which say nothing of the rest.
    """
    dataset, indices = opened
    size = own_ground_truth(dataset, indices[0]).shape
    fitting, left_out = [], []
    for p in dataset.protocols(subject.max_depth):
        fits = p.defined_for(size) and (p.crop is not None or not subject.predicts_windows)
        (fitting if fits else left_out).append(p)
    if left_out:
        words = "predictions are 352 x 1216 windows" if subject.predicts_windows else f"size {size}"
        print(f"protocols left out ({words}): {', '.join(p.name for p in left_out)}")
    if not fitting:
        dataset.protocols(subject.max_depth)[0].crop(*size)  # says why, as an error
    return fitting


def export_kitti_server(subject: Subject, images: Path, out: Path) -> None:
    """Write <out>/kitti_server.zip from the benchmark's 500 pictures."""
    dataset = server_images(images)
    predictions = subject.predict(dataset, range(len(dataset)))
    path = out / "kitti_server.zip"
    write_server_zip(path, ((one.frame_id, one.depth[0].numpy()) for one in predictions))
    print(f"{path}: {len(dataset)} PNGs, checked")


def enter_look(subject: Subject, result: dict[str, Any]) -> None:
    """Enter an evaluation of test frames in the ledger, and say how many there were."""
    keys = ("dataset", "split", "list_sha256", "num_test_frames", "protocols")
    entry = {**subject.identity, **{key: result[key] for key in keys}}
    count = append_to_ledger(subject.ledger, entry)
    print(f"test frames: look number {count} at this list, entered in {subject.ledger}")


def write_results(
    out: Path, subject: Subject, opened: Stream, result: dict[str, Any], first: DepthMetrics,
    details: Details,
) -> None:  # fmt: skip
    """metrics.json, tables, plots, panels and report; `first` are the first protocol's scores."""
    dataset, indices = opened
    write_metrics(out, result)
    write_tables(out, first, details, dataset)
    num_panels = subject.cfg.evaluation.num_panels
    pages = write_panels(out, subject.predict, dataset, indices, first, num_panels=num_panels)
    write_report(out, result, write_plots(out, details, result), pages)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--ckpt", help="run folder, checkpoint, or what export.py wrote")
    what.add_argument("--predictions", type=Path, help="folder of 16-bit depth PNGs made by anyone")
    parser.add_argument("--conf", help="YAML file with the frames to score (default: the run's)")
    parser.add_argument(
        "--split", help="split or list of the validation dataset (default: its own)"
    )
    parser.add_argument("--out", type=Path, help="folder for results (default: in the run folder)")
    parser.add_argument("--floors", action="store_true", help="also score what ignores the image")
    parser.add_argument("--save-png", action="store_true", help="keep predictions as 16-bit PNGs")
    parser.add_argument(
        "--calibration", type=Path, help="metrics.json of the validation frames, for its scale"
    )
    parser.add_argument("--export", choices=["kitti-server"], help="write a submission instead")
    parser.add_argument("--images", type=Path, help="with --export: folder of the 500 pictures")
    add_config_arguments(parser, default_file=None)
    args = parser.parse_intermixed_args(arguments)
    if args.predictions and not args.conf:
        parser.error("--predictions needs --conf, which says what frames they are of")
    if args.export and not (args.images and args.ckpt):
        parser.error("--export kitti-server needs --ckpt and --images")
    return args


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    known_scale = args.calibration and (scale_in(args.calibration), str(args.calibration))
    subject = open_subject(args)
    cfg, process = subject.cfg, subject.process
    if args.export:
        export_kitti_server(subject, args.images, args.out or subject.home)
        return 0
    opened = dataset, indices = open_frames(
        cfg.validation, seed=cfg.run.seed, budget=None, roles=subject.roles
    )
    listed = official_list(cfg.validation, opened)
    looked_at = test_frames(cfg.validation, opened)
    names, kinds = frame_ids_at(dataset, indices), ground_truth_kinds(dataset, indices)
    subject.check_complete(names)
    protocols = fitting_protocols(subject, opened)
    out = args.out or subject.home / "evaluation" / Path(cfg.validation.split).stem
    out.mkdir(parents=True, exist_ok=True)
    details = Details(
        protocols[0], dataset, with_uncertainty=subject.with_uncertainty, floors=args.floors
    )
    files = png_names(names) if args.save_png else {}

    def look(one: Prediction) -> None:
        details.add(one)
        if files:
            file = out / "predictions" / files[one.frame_id]
            write_depth_png(file, one.depth[0].numpy(), units_per_metre=dataset.prediction_units)

    share = indices[process.rank :: process.world_size]  # no padding, nothing dropped
    scores = evaluate(
        subject.predict(dataset, share), names, protocols=protocols, kinds=kinds, on_prediction=look
    )
    details.reduce_over_ranks()
    scale, fitted_on = known_scale or fitted_scale(
        subject, details.calibration, is_test=bool(looked_at)
    )
    if not process.is_main:
        return 0
    result = {
        **subject.identity,
        "dataset": cfg.validation.dataset,
        "variant": cfg.validation.variant,
        "split": cfg.validation.split,
        "list": listed,
        "list_sha256": cfg.validation.list_sha256,
        "num_images": len(indices),
        "num_test_frames": len(looked_at),
        "ground_truth": kinds[0],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        **matrix(scores, protocols, kinds),
        "ranges": details.range_rows(),
        "uncertainty": details.uncertainty_report(
            raw_scale=subject.tolerated_error, fitted_scale=scale, fitted_on=fitted_on
        ),
    }
    if args.floors:
        labeled = open_frames(cfg.labeled, seed=cfg.run.seed, budget=cfg.labeled.budget)
        result["floors"] = trivial_floors(labeled, opened, protocols[0])
    if looked_at:
        enter_look(subject, result)
    if files:
        units = {"units_per_metre": dataset.prediction_units, "rounding": "nearest"}
        write_description(out / "predictions", {**subject.identity, **units})
    write_results(out, subject, opened, result, scores[kinds[0], protocols[0].name, False], details)
    print(f"{subject.title} on {cfg.validation.dataset} {cfg.validation.split}")
    print(f"{printed_table(result)}\nwritten to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
