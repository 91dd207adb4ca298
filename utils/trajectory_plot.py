"""Paths of the camera from above (ours). Drawn as `utils.plots` draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .plots import COLORS, DASHES, DPI, FAINT, GRID, INK
from .trajectory import camera_positions, scaled

TRUE = "true"  # name of the path that is drawn in ink
NUM_DRAWN = 3  # runs


def longest_runs(
    predicted: np.ndarray, true: np.ndarray, *, runs: Sequence[Sequence[int]],
    names: Sequence[tuple[str, str]], ratio: float,
) -> dict[str, dict[str, np.ndarray]]:  # fmt: skip
    """The paths of the longest runs, for `trajectory_plot`.

    Args:
        predicted, true: (n, 4, 4) relative poses, metres.
        runs: places of the pairs in each run, of `trajectory.consecutive_runs`.
        names: ids of the two frames of each pair.
        ratio: length_ratio of the prediction, for a path at the right scale; none if not above 0.
    """
    drives = {}
    for run in sorted(runs, key=len, reverse=True)[:NUM_DRAWN]:
        paths = {TRUE: camera_positions(true[run]), "predicted": camera_positions(predicted[run])}
        if ratio > 0:
            paths["median-scaled"] = camera_positions(scaled(predicted[run], 1 / ratio))
        drives[f"{names[run[0]][0]}: {len(run) + 1} frames"] = paths
    return drives


def trajectory_plot(drives: Mapping[str, Mapping[str, np.ndarray]]) -> Image.Image:
    """A panel a drive: its paths from above, one metre as long to the side as ahead.

    Args:
        drives: title -> name for the legend -> (n, 3) positions in metres, X right, Z ahead, the
            first at 0. All drives have the same names, TRUE among them.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no drive, or more paths than there are colours.
    """
    if not drives or any(len(paths) > len(COLORS) + 1 for paths in drives.values()):
        raise ValueError(f"trajectory_plot draws drives of at most {len(COLORS) + 1} paths each")
    figure = Figure(
        figsize=(4.4 * len(drives) + 0.4, 5.4), dpi=DPI, layout="constrained", facecolor="white"
    )
    panels = figure.subplots(1, len(drives), squeeze=False)[0]
    for axes, (title, paths) in zip(panels, drives.items(), strict=True):
        looks = {TRUE: (INK, "-")}
        others = [name for name in paths if name != TRUE]
        looks |= dict(zip(others, zip(COLORS, DASHES, strict=True), strict=False))
        for name, positions in paths.items():
            color, dashes = looks[name]
            axes.plot(positions[:, 0], positions[:, 2], color=color, ls=dashes, lw=2, label=name)
        axes.plot(0, 0, "o", color=INK, ms=6)  # where all begin
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(title, color=INK, fontsize=11, loc="left")
        axes.set(xlabel="to the right (m)", ylabel="ahead (m)")
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=10, length=0)
        axes.grid(color=GRID, lw=0.8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
                  fontsize=11, labelcolor=INK)  # fmt: skip
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())
