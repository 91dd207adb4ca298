"""What evaluation scores: the network of a checkpoint, or a folder of PNGs made by anyone."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dotmap import DotMap

from datasets import DATASETS, DataError
from datasets.prediction_files import PredictionFolder
from evaluation_details import calibration_of
from frames import open_frames
from networks import checkpoint_file, load_network
from predictions import (
    Predict,
    file_predictions,
    network_predictions,
    precision_gap_of_frames,
)
from utils.calibration import CalibrationSums
from utils.checkpoint import file_sha256, load_checkpoint
from utils.config import load_config, saved_config
from utils.processes import Process, start_process


@dataclass(frozen=True)
class Subject:
    """One thing to evaluate.

    Attributes:
        cfg: configuration; its validation section says on which frames.
        process: this process.
        predict: (dataset, indices) -> predictions, one by one.
        identity: what metrics.json says of it.
        title: the same for the screen.
        home: folder below which results go.
        ledger: file in which looks at test frames are entered.
        max_depth: metres, of the network.
        with_uncertainty: whether predictions have log_uncertainty.
        roles: files that a frame must have to be scored.
        precision_gap: (dataset, indices) -> what bf16 changes; None where nothing runs in it.
        validation: section of the frames that chose the checkpoint; None if nobody knows them.
        folder: the PNGs, or None.
        predicts_windows: whether predictions are KITTI's 352 x 1216 windows of larger frames.
    """

    cfg: DotMap
    process: Process
    predict: Predict
    identity: dict[str, Any]
    title: str
    home: Path
    ledger: Path
    max_depth: float
    with_uncertainty: bool
    roles: tuple[str, ...]
    precision_gap: Callable[[Any, Sequence[int]], dict[str, float]] | None = None
    validation: DotMap | None = None
    folder: PredictionFolder | None = None
    predicts_windows: bool = False

    @property
    def tolerated_error(self) -> float:
        """Metres; exp(u) times it is the error that the uncertainty was trained to expect."""
        return self.cfg.losses.tolerated_error or 0.00375 * self.max_depth

    def check_complete(self, frame_ids: Sequence[str]) -> None:
        """DataError unless every frame has a prediction; files of no frame are named."""
        if self.folder is None:
            return
        foreign = self.folder.check_complete(frame_ids)
        if foreign and self.process.is_main:
            print(f"{len(foreign)} files are of no frame of the split, {foreign[0]} for one")


def open_subject(args: Namespace) -> Subject:
    """The subject of evaluate.py's command line."""
    words = [f"validation.split={args.split}"] * bool(args.split) + args.overrides
    if any(word.startswith("validation.") for word in words):
        # other frames than those of the run are asked for, so its list is not insisted on
        words.insert(0, "validation.list_sha256=null")
    return _of_files(args, words) if args.predictions else _of_checkpoint(args, words)


def _of_checkpoint(args: Namespace, words: list[str]) -> Subject:
    file = checkpoint_file(args.ckpt)
    state = load_checkpoint(file) if file.suffix == ".pt" else None
    if state is None and args.conf is None:
        raise DataError(f"{file} says nothing of frames: name a configuration with --conf")
    cfg = (
        saved_config(state["config"], words, place=str(file))
        if args.conf is None
        else load_config(args.conf, words)
    )
    process = start_process(cfg.run.device)
    network = load_network(file, device=process.device)
    how = {"device": process.device, "batch_size": cfg.evaluation.batch_size}
    in_bf16 = cfg.evaluation.precision == "bf16"
    run_folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    return Subject(
        cfg=cfg,
        process=process,
        predict=partial(
            network_predictions, network, flip=cfg.evaluation.flip,
            precision=cfg.evaluation.precision, num_workers=cfg.train.num_workers, **how,
        ),
        precision_gap=partial(precision_gap_of_frames, network, **how) if in_bf16 else None,
        identity={
            "checkpoint": str(file),
            "sha256": file_sha256(file),
            "step": state and state["step"],
            "image_size": list(network.image_size),
            "flip": cfg.evaluation.flip,
            "precision": cfg.evaluation.precision,
            "resize": "prediction to the ground truth's stored size, bilinear, half-pixel corners",
            "rounding": "none, float32 in memory",
        },
        title=str(file) + (f" (step {state['step']})" if state else ""),
        home=run_folder,
        ledger=run_folder.parent / "test_ledger.jsonl",
        max_depth=network.max_depth,
        with_uncertainty=network.uncertainty_head is not None,
        roles=("image", "depth"),
        validation=state and saved_config(state["config"], place=str(file)).validation,
    )  # fmt: skip


def _of_files(args: Namespace, words: list[str]) -> Subject:
    cfg = load_config(args.conf, words)
    process = start_process(cfg.run.device)
    stream = cfg.validation
    dataset = DATASETS[stream.dataset](
        stream.root, stream.split, variant=stream.variant, depth_scale=stream.depth_scale
    )
    units = dataset.prediction_units
    folder = PredictionFolder(args.predictions, units_per_metre=units)
    first = next((name for name in dataset.frame_ids if folder.has(name)), None)
    return Subject(
        cfg=cfg,
        process=process,
        predict=partial(file_predictions, folder),
        identity={
            "checkpoint": folder.description.get("checkpoint"),
            "sha256": folder.description.get("sha256"),
            "predictions": str(args.predictions),
            "image_size": folder.description.get("image_size"),
            "flip": folder.description.get("flip", "unknown"),
            "precision": folder.description.get("precision", "unknown"),
            "resize": folder.description.get("resize", "unknown"),
            "rounding": f"16-bit PNG, {units:g} units a metre",
        },
        title=str(args.predictions),
        home=args.predictions.parent / f"{args.predictions.name}_scores",
        ledger=Path(cfg.run.folder) / "test_ledger.jsonl",
        max_depth=cfg.network.max_depth,
        with_uncertainty=folder.has_uncertainty,
        roles=("depth",),
        folder=folder,
        predicts_windows=first is not None and folder.is_window(first),
    )


def fitted_scale(
    subject: Subject, sums: CalibrationSums | None, *, is_test: bool
) -> tuple[float | None, str | None]:
    """Scale in metres of exp(u), fitted on validation frames only, and on which.

    Fitted on the very frames that were scored, if they are the validation frames (or, for PNGs, no
    test frames); else by a pass over the validation frames of the run. Nothing where there are
    none, or without uncertainty.
    """
    if sums is None:
        return None, None
    own = subject.validation
    asked_for = subject.cfg.validation.list_sha256
    if (own is None and not is_test) or (own is not None and own.list_sha256 == asked_for):
        return sums.fitted_scale(), "these frames themselves"
    if own is None:
        print("no scale was fitted: name validation frames' metrics.json with --calibration")
        return None, None
    try:
        dataset, indices = open_frames(own, seed=subject.cfg.run.seed, budget=None)
    except DataError as error:
        print(f"no scale was fitted, the run's validation frames cannot be opened: {error}")
        return None, None
    share = indices[subject.process.rank :: subject.process.world_size]
    protocol = dataset.protocols(subject.max_depth)[0]
    fitted = calibration_of(subject.predict(dataset, share), protocol)
    return fitted.reduce_over_ranks().fitted_scale(), f"{len(indices)} validation frames of the run"


def scale_in(path: Path) -> float:
    """Scale in metres that an evaluation on validation frames fitted. DataError without one."""
    try:
        return float(json.loads(path.read_text())["uncertainty"]["recalibrated"]["scale_m"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: no recalibrated scale in it ({error}); it must be the metrics.json of an "
            "evaluation on validation frames, with uncertainty"
        ) from error
