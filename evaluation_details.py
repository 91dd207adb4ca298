"""What evaluation finds, as numbers: the protocol matrix, error by depth range, uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets import DataError
from datasets.protocol import EvalProtocol, depth_ranges
from datasets.views import to_tensor
from predictions import Prediction
from utils.calibration import CalibrationSums
from utils.metrics import DepthMetrics, naming, pixels_at, table, valid_pixels, valid_places
from utils.uncertainty import UncertaintyMetrics, gradient_uncertainty, scored_pixels

Scores = dict[tuple[str, str, bool], DepthMetrics]  # (ground truth, protocol, median-scaled)
SHOWN_OF_UNCERTAINTY = (
    "ause_abs_rel", "aurg_abs_rel", "ause_rmse", "aurg_rmse", "ause_d1", "aurg_d1", "spearman",
    "auroc_d1",
)  # fmt: skip
SHOWN_OF_CALIBRATION = ("scale_m", "nll", "ece", "ence", "sharpness_m")


class Details:
    """Collects, frame by frame, under one protocol and the dataset's own ground truth.

    Attributes:
        ranges: "0-10" and so on, metres -> metrics of the pixels whose ground truth lies there.
        uncertainty: ranking measures of "predicted" and, if `floors`, of "constant" and
            "image_gradient", which know nothing of the network. Empty without uncertainty.
        calibration: sums for likelihood and coverage; None without uncertainty.
    """

    def __init__(
        self, protocol: EvalProtocol, dataset: Any, *, with_uncertainty: bool, floors: bool = False
    ):
        self.protocol, self.dataset = protocol, dataset
        bounds = {"min_depth": protocol.min_depth, "max_depth": protocol.max_depth}
        self.bounds = bounds
        self.edges = depth_ranges(protocol.max_depth)
        self.ranges = {range_name(*edges): DepthMetrics(**bounds) for edges in self.edges}
        kinds = ["predicted"] + ["constant", "image_gradient"] * floors
        self.uncertainty = {kind: UncertaintyMetrics(**bounds) for kind in kinds * with_uncertainty}
        self.calibration = CalibrationSums(**bounds) if with_uncertainty else None

    def add(self, one: Prediction) -> None:
        """Add one frame; see `measure` and `collect`."""
        self.collect(self.measure(one))

    def measure(self, one: Prediction) -> CalibrationSums | None:
        """Add one frame to everything but `calibration`, and return its sums for that.

        Several threads may do so at once, each with another frame: only what has an order, sums in
        floating point, is left to `collect`. Raises DataError if uncertainty is missing for this
        frame alone.
        """
        name, depth = one.frame_id, one.ground_truth.numpy()
        mask = self.protocol.valid_mask(depth)
        scored = {"prediction": one.depth.numpy(), "depth": depth, "valid_mask": mask}
        with naming(name):
            p, d = valid_pixels(**scored)
        for metrics, (low, high) in zip(self.ranges.values(), self.edges, strict=True):
            inside = (d > low) & (d <= high)
            metrics.update_pixels(name=name, prediction=p[inside], depth=d[inside])
        if self.calibration is None:
            return None
        if one.log_uncertainty is None:
            raise DataError(
                f"{name!r} has no log_uncertainty, but other frames have; write it for all or for "
                "none"
            )
        with naming(name):
            p, d, u = scored_pixels(
                **scored, log_uncertainty=one.log_uncertainty.numpy(), **self.bounds
            )
        errors, places = self.uncertainty["predicted"].errors_of(p, d), valid_places(mask)
        for kind, metrics in self.uncertainty.items():
            unsure = u if kind == "predicted" else pixels_at(places, self.map_of(kind, one))
            metrics.update_pixels(name=name, log_uncertainty=unsure, errors=errors)
        sums = CalibrationSums(**self.bounds)
        sums.update_pixels(name=name, prediction=p, depth=d, log_uncertainty=u)
        return sums

    def collect(self, sums: CalibrationSums | None) -> None:
        """Add what `measure` returned, in the order of the frames."""
        if sums is not None:
            self.calibration.add(sums)

    def map_of(self, kind: str, one: Prediction) -> Tensor:
        """The frame's uncertainty of one kind, (1, H, W) float32."""
        if kind == "predicted":
            return one.log_uncertainty
        if kind == "constant":
            return torch.zeros_like(one.depth)
        image = to_tensor(self.dataset.frame(one.index).image).numpy()
        gradient = Image.fromarray(gradient_uncertainty(image).astype(np.float32))
        size = one.depth.shape[-1], one.depth.shape[-2]
        return torch.from_numpy(np.array(gradient.resize(size, Image.Resampling.BILINEAR)))[None]

    def reduce_over_ranks(self) -> None:
        """Put the frames of all ranks together, on every rank. Every rank must call it."""
        self.ranges = {name: part.reduce_over_ranks() for name, part in self.ranges.items()}
        self.uncertainty = {
            name: part.reduce_over_ranks() for name, part in self.uncertainty.items()
        }
        if self.calibration is not None:
            self.calibration = self.calibration.reduce_over_ranks()

    def range_rows(self) -> dict[str, dict[str, float]]:
        """Mean metrics by depth range; ranges without a pixel are left out."""
        return {name: part.mean() for name, part in self.ranges.items() if part.rows}

    def uncertainty_report(
        self, *, raw_scale: float, fitted_scale: float | None, fitted_on: str | None
    ) -> dict[str, Any] | None:
        """The section "uncertainty" of metrics.json; None without uncertainty.

        Args:
            raw_scale: metres, what the loss takes exp(u) times as the expected error.
            fitted_scale: metres, the same fitted on validation frames; None if there are none.
            fitted_on: which frames those were.
        """
        if self.calibration is None:
            return None
        means = {name: part.mean() for name, part in self.uncertainty.items()}
        raw = self.calibration.report(raw_scale)
        fitted = fitted_scale and self.calibration.report(fitted_scale)
        return {
            **means.pop("predicted"),
            "nll": raw["nll"],
            "calibration": raw,
            "recalibrated": fitted and {**fitted, "fitted_on": fitted_on},
            **({"floors": means} if means else {}),
        }  # fmt: skip


def range_name(low: float, high: float) -> str:
    """ "10-20" for ground truth in (10, 20] metres."""
    return f"{low:g}-{high:g}"


def calibration_of(
    predictions: Iterable[Prediction], protocol: EvalProtocol
) -> CalibrationSums | None:
    """Sums over frames, from which the scale of exp(u) is fitted; None without uncertainty."""
    sums = CalibrationSums(min_depth=protocol.min_depth, max_depth=protocol.max_depth)
    for one in predictions:
        if one.log_uncertainty is None:
            return None
        sums.update(
            name=one.frame_id, prediction=one.depth, depth=one.ground_truth,
            log_uncertainty=one.log_uncertainty, valid_mask=protocol.valid_mask(one.ground_truth),
        )  # fmt: skip
    return sums


def matrix(
    scores: Scores, protocols: Sequence[EvalProtocol], kinds: Sequence[str]
) -> dict[str, Any]:
    """The mean metrics in the shape of metrics.json.

    "protocols", "median_scaled" and, on KITTI, "kitti_server" are on the dataset's own ground
    truth; "other_ground_truth" has the first two again for each other kind that scores a pixel.
    """

    def rows(kind: str, scaled: bool) -> dict[str, dict[str, float]]:
        chosen = {p.name: scores[kind, p.name, scaled] for p in protocols if not p.devkit}
        return {name: s.mean() for name, s in chosen.items() if s.rows or kind == kinds[0]}

    result: dict[str, Any] = {
        "protocols": rows(kinds[0], False),
        "median_scaled": rows(kinds[0], True),
        "other_ground_truth": {
            kind: {"protocols": rows(kind, False), "median_scaled": rows(kind, True)}
            for kind in kinds[1:]
        },
        "protocol_definitions": {p.name: p.described() for p in protocols},
    }
    devkit = {p.name: scores[kinds[0], p.name, False].mean() for p in protocols if p.devkit}
    return result | devkit


def printed_table(result: Mapping[str, Any]) -> str:
    """Every row of the matrix, and the floors, as text."""
    rows: dict[str, dict[str, float]] = {}
    both = {"": result, **{f" ({k})": other for k, other in result["other_ground_truth"].items()}}
    for kind, numbers in both.items():
        for key, words in (("protocols", ""), ("median_scaled", ", median-scaled")):
            rows |= {f"{name}{kind}{words}": row for name, row in numbers[key].items()}
    rows |= {f"floor: {name}": row for name, row in result.get("floors", {}).items()}
    lines = [table(rows)]
    if "kitti_server" in result:
        lines.append(f"kitti_server: {_line(result['kitti_server'])}")
    report = result["uncertainty"]
    if report:
        for name, row in {"predicted": report, **report.get("floors", {})}.items():
            shown = {key: row[key] for key in SHOWN_OF_UNCERTAINTY}
            lines.append(f"uncertainty, {name}: {_line(shown)}")
        for name in ("calibration", "recalibrated"):
            if report[name]:
                shown = {key: report[name][key] for key in SHOWN_OF_CALIBRATION}
                fitted_on = report[name].get("fitted_on")
                words = f"  (scale fitted on {fitted_on})" if fitted_on else ""
                lines.append(f"{name}: {_line(shown)}{words}")
    return "\n".join(lines)


def _line(numbers: Mapping[str, float | None]) -> str:
    return "  ".join(
        f"{name} {'-' if value is None else f'{value:.4f}'}"
        for name, value in numbers.items()
        if not name.startswith("num_")
    )
