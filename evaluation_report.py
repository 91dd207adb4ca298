"""A finished evaluation, written down: metrics.json, tables per image, panels and report.html."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets import DataError
from datasets.splits import evenly
from evaluation_details import SHOWN_OF_CALIBRATION, SHOWN_OF_UNCERTAINTY, Details
from predictions import Predict, Prediction
from utils.metrics import METRIC_NAMES, DepthMetrics
from utils.plots import coverage_plot, range_plot, sparsification_plot
from utils.report import html_page, html_pairs, html_picture, html_table
from utils.visualize import panel

NUM_GALLERY = 3  # frames each of the best, the middle and the worst


def write_tables(out: Path, scores: DepthMetrics, details: Details, dataset: Any) -> None:
    """per_image.csv and per_range.csv; with uncertainty per_image_uncertainty.csv."""
    columns = (*METRIC_NAMES, "num_valid")
    _write_csv(
        out / "per_image.csv",
        ("frame_id", "scene", *columns),
        (
            (name, dataset.scene_of(name), *(row[c] for c in columns))
            for name, row in scores.rows.items()
        ),
    )
    columns = ("abs_rel", "rmse", "d1", "num_valid")
    _write_csv(
        out / "per_range.csv",
        ("frame_id", "range", *columns),
        (
            (name, which, *(row[c] for c in columns))
            for which, part in details.ranges.items()
            for name, row in part.rows.items()
        ),
    )
    if details.uncertainty:
        rows = details.uncertainty["predicted"].rows
        columns = tuple(next(iter(rows.values()), {}))
        lines = ((name, *(row[c] for c in columns)) for name, row in rows.items())
        _write_csv(out / "per_image_uncertainty.csv", ("frame_id", *columns), lines)


def _write_csv(path: Path, header: Sequence[str], lines: Any) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)


def draw_frames(predict: Predict, dataset: Any, indices: Sequence[int]) -> dict[int, Image.Image]:
    """A panel of each frame by index: picture, ground truth, prediction, error, uncertainty.

    Predictions are made again: keeping them all would take gigabytes, and these are few.
    """
    return {one.index: panel_of(one, dataset) for one in predict(dataset, indices)}


def panel_of(one: Prediction, dataset: Any) -> Image.Image:
    """The frame as labelled tiles; its picture is read for it."""
    return panel(
        image=dataset.frame(one.index).image,
        depth=one.ground_truth.numpy(),
        prediction=one.depth.numpy(),
        log_uncertainty=None if one.log_uncertainty is None else one.log_uncertainty.numpy(),
        title=one.frame_id,
    )


def gallery_places(errors: Sequence[float], num_each: int) -> dict[str, list[int]]:
    """Places of the "best", "median" and "worst" frames by AbsRel; no place is in two of them."""
    order = np.argsort(errors, kind="stable").tolist()
    num_each = min(num_each, len(order) // 3)
    middle = (len(order) - num_each) // 2
    return {
        "best": order[:num_each],
        "median": order[middle : middle + num_each],
        "worst": order[::-1][:num_each],
    }


def write_panels(
    out: Path, predict: Predict, dataset: Any, indices: Sequence[int], scores: DepthMetrics,
    *, num_panels: int,
) -> dict[str, list[Image.Image]]:  # fmt: skip
    """panels/<place>.png, evenly over the split, and the gallery: best_1.png, median_1.png, ...

    Returns:
        The pictures by group, for the report. Nothing where the data has no pictures.
    """
    if not num_panels:
        return {}
    folder = out / "panels"
    folder.mkdir(exist_ok=True)
    place_of = {dataset.frame_ids[index]: place for place, index in enumerate(indices)}
    names = list(scores.rows)
    gallery = gallery_places([scores.rows[n]["abs_rel"] for n in names], NUM_GALLERY)
    groups = {group: [place_of[names[i]] for i in chosen] for group, chosen in gallery.items()}
    groups["evenly"] = evenly(range(len(indices)), num_panels)
    wanted = sorted({place for places in groups.values() for place in places})
    try:
        pictures = draw_frames(predict, dataset, [indices[place] for place in wanted])
    except DataError as error:
        print(f"no panels: {error}")
        return {}
    pages = {}
    for group, places in groups.items():
        pages[group] = [pictures[indices[place]] for place in places]
        for number, (place, picture) in enumerate(zip(places, pages[group], strict=True), 1):
            name = f"{place:05d}" if group == "evenly" else f"{group}_{number}"
            picture.save(folder / f"{name}.png")
    return pages


def write_plots(out: Path, details: Details, result: Mapping[str, Any]) -> dict[str, Image.Image]:
    """ranges.png, and with uncertainty sparsification.png and coverage.png."""
    rows = {}
    for name, part in details.ranges.items():
        pixels = sum(row["num_valid"] for row in part.rows.values())
        rows[name] = {"abs_rel": part.mean()["abs_rel"] if part.rows else None, "num_valid": pixels}
    plots = {"ranges": range_plot(rows)}
    if result["uncertainty"]:
        curves = {name: metrics.curves() for name, metrics in details.uncertainty.items()}
        reports = {"as trained": result["uncertainty"]["calibration"]}
        if result["uncertainty"]["recalibrated"]:
            reports["recalibrated"] = result["uncertainty"]["recalibrated"]
        plots |= {"sparsification": sparsification_plot(curves), "coverage": coverage_plot(reports)}
    for name, picture in plots.items():
        picture.save(out / f"{name}.png")
    return plots


def write_report(
    out: Path,
    result: Mapping[str, Any],
    plots: Mapping[str, Image.Image],
    pages: Mapping[str, Sequence[Image.Image]],
) -> None:
    """report.html, all in one file."""
    what = result.get("checkpoint") or result.get("predictions")
    facts = {
        key: result[key]
        for key in ("checkpoint", "predictions", "sha256", "step", "list", "list_sha256",
                    "num_images", "image_size", "flip", "precision", "resize", "rounding", "time")
        if result.get(key) is not None
    }  # fmt: skip
    sections = [("What was evaluated", html_pairs(facts))]
    sections += _score_sections(result)
    sections.append(
        ("Error by depth range in metres", html_table(
            result["ranges"], columns=("abs_rel", "rmse", "d1", "num_images"))
         + html_picture(plots["ranges"], "Means over images", width_px=560))
    )  # fmt: skip
    if result["uncertainty"]:
        sections.append(("Uncertainty", _uncertainty_section(result["uncertainty"], plots)))
    for group in ("worst", "median", "best", "evenly"):
        if pages.get(group):
            heading = "Evenly over the split" if group == "evenly" else f"{group.title()} by AbsRel"
            shown = "".join(html_picture(picture, photo=True) for picture in pages[group])
            sections.append((heading, shown))
    title = f"{result['dataset']} {result['split']}: AbsRel {_first(result)['abs_rel']:.4f}"
    (out / "report.html").write_text(html_page(title, str(what), sections))


def _first(result: Mapping[str, Any]) -> Mapping[str, float]:
    return next(iter(result["protocols"].values()))


def _score_sections(result: Mapping[str, Any]) -> list[tuple[str, str]]:
    columns = (*METRIC_NAMES, "num_images", "num_skipped")
    sections = [
        ("Metric depth", html_table(result["protocols"], columns=columns)),
        ("Median-scaled to the ground truth", html_table(result["median_scaled"], columns=columns)),
    ]
    for kind, rows in result["other_ground_truth"].items():
        both = dict(rows["protocols"])
        both |= {f"{name}, median-scaled": row for name, row in rows["median_scaled"].items()}
        sections.append((f"On other ground truth: {kind}", html_table(both, columns=columns)))
    if result.get("kitti_server"):
        row = result["kitti_server"]
        words = "<p>Relative errors in percent, inverse ones in 1/km; nothing is cut.</p>"
        table = html_table({"development kit": row}, columns=tuple(row))
        sections.append(("KITTI benchmark metrics", words + table))
    if result.get("floors"):
        floors = html_table(result["floors"], columns=columns)
        sections.append(("Predictions that never look at the image", floors))
    keys = ("crop", "min_depth", "max_depth", "ground_truth_beyond_max_depth", "formulas")
    defined = html_table(result["protocol_definitions"], columns=keys)
    return [*sections, ("What the protocols are", defined)]


def _uncertainty_section(report: Mapping[str, Any], plots: Mapping[str, Image.Image]) -> str:
    ranking = {"predicted": report, **report.get("floors", {})}
    calibration = {"as trained": report["calibration"]}
    if report["recalibrated"]:
        words = f"recalibrated; scale fitted on {report['recalibrated']['fitted_on']}"
        calibration[words] = report["recalibrated"]
    return (
        html_table(ranking, columns=SHOWN_OF_UNCERTAINTY)
        + html_picture(plots["sparsification"], "Error of what remains; means over images")
        + html_table(calibration, columns=SHOWN_OF_CALIBRATION)
        + html_picture(
            plots["coverage"], "Central intervals of the Laplace likelihood", width_px=420
        )
    )


def write_metrics(out: Path, result: Mapping[str, Any]) -> None:
    """metrics.json: `result` as it is, numbers in full."""
    (out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
