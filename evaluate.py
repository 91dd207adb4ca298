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
import sys
import time
from pathlib import Path
from typing import Any

from datasets import DataError
from datasets.kitti_server import server_images, write_server_zip
from datasets.prediction_files import png_names, write_depth_png, write_description
from datasets.protocol import EvalProtocol
from datasets.splits import frame_ids_at
from evaluation_details import Details, matrix, printed_table
from evaluation_report import write_metrics, write_panels, write_plots, write_report, write_tables
from frames import Stream, official_list, open_frames, test_frames
from networks import NetworkError
from predictions import Prediction, ground_truth_kinds, precision_words
from scoring import evaluate, own_ground_truth, trivial_floors
from subject import Subject, fitted_scale, open_subject, scale_in
from utils.calibration import CalibrationSums
from utils.checkpoint import CheckpointError
from utils.command_line import add_config_arguments, run_script
from utils.config import ConfigError
from utils.ledger import append_to_ledger
from utils.metrics import DepthMetrics, MetricsError
from utils.processes import DeviceError, DisagreementError
from utils.run_lock import RunFolderError

USER_ERRORS = (
    ConfigError, DataError, NetworkError, CheckpointError, DeviceError, DisagreementError,
    MetricsError, RunFolderError,
)  # fmt: skip


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
    precision_gap(subject, (dataset, range(len(dataset))))
    predictions = subject.predict(dataset, range(len(dataset)))
    path = out / "kitti_server.zip"
    write_server_zip(path, ((one.frame_id, one.depth[0].numpy()) for one in predictions))
    print(f"{path}: {len(dataset)} PNGs, checked")


def precision_gap(subject: Subject, stream: Stream) -> dict[str, float] | None:
    """What computing in bf16 changes, printed; None in float32. Raises NetworkError if too much."""
    if subject.precision_gap is None:
        return None
    gap = subject.precision_gap(*stream)
    if subject.process.is_main:
        print(precision_words(gap), flush=True)
    return gap


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
    gap = precision_gap(subject, opened)
    out = args.out or subject.home / "evaluation" / Path(cfg.validation.split).stem
    out.mkdir(parents=True, exist_ok=True)
    details = Details(
        protocols[0], dataset, with_uncertainty=subject.with_uncertainty, floors=args.floors
    )
    files = png_names(names) if args.save_png else {}

    def measure(one: Prediction) -> CalibrationSums | None:
        if files:
            file = out / "predictions" / files[one.frame_id]
            write_depth_png(file, one.depth[0].numpy(), units_per_metre=dataset.prediction_units)
        return details.measure(one)

    share = indices[process.rank :: process.world_size]  # no padding, nothing dropped
    scores = evaluate(
        subject.predict(dataset, share), names, protocols=protocols, kinds=kinds,
        measure=measure, collect=details.collect,
    )  # fmt: skip
    details.reduce_over_ranks()
    scale, fitted_on = known_scale or fitted_scale(
        subject, details.calibration, is_test=bool(looked_at)
    )
    if not process.is_main:
        return 0
    result = {
        **subject.identity,
        "precision_gap": gap,
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
