"""Figures of evaluations: sparsification, coverage, error by depth range, by labels (ours).

Drawn with matplotlib's figures alone: pyplot and global settings are not touched. Colours are those
of Okabe and Ito (2008), which the colour-blind can tell apart; lines also differ in their dashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

DPI = 150
INK, FAINT, GRID = "#18181b", "#71717a", "#e4e4e7"
COLORS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9")  # of methods, in their order
DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (5, 1, 1, 1)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v")
ORACLE_COLOR = "#009E73"
ERROR_LABELS = {"abs_rel": "AbsRel", "rmse": "RMSE (m)", "d1": "1 − δ1"}

Curves = Mapping[str, Mapping[str, np.ndarray]]
Points = Sequence[tuple[float, float, float | None]]  # labels, mean, sample std of one run more


def sparsification_plot(methods: Mapping[str, Curves]) -> Image.Image:
    """A panel an error: what remains of it when the least sure pixels are taken away.

    Args:
        methods: name for the legend -> `UncertaintyMetrics.curves`, all of the same images; at most
            as many as COLORS. Oracle and random, which depend on the images only, are those of the
            first.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no method, or too many.
    """
    _check_number(methods, "sparsification_plot")
    first = next(iter(methods.values()))
    figure, panels = _figure((12, 3.9), columns=len(ERROR_LABELS))
    for axes, (error, label) in zip(panels, ERROR_LABELS.items(), strict=True):
        shares = 100 * np.asarray(first[error]["removed"])
        axes.plot(shares, first[error]["random"], color=FAINT, lw=1.4, label="random")
        for (name, curves), color, dashes in zip(methods.items(), COLORS, DASHES, strict=False):
            axes.plot(shares, curves[error]["method"], color=color, ls=dashes, lw=2.2, label=name)
        axes.plot(shares, first[error]["oracle"], color=ORACLE_COLOR, lw=1.8, label="oracle")
        axes.set(xlim=(0, 100), ylim=(0, None), xlabel="least sure pixels taken away (%)")
        axes.set_title(label, color=INK, fontsize=13, loc="left", fontweight="bold")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False,
                  fontsize=11, labelcolor=INK)  # fmt: skip
    return _picture(figure)


def coverage_plot(reports: Mapping[str, Mapping]) -> Image.Image:
    """Share of errors inside the central intervals against the share that should be.

    Above the diagonal the stated errors are too large, below it too small.

    Args:
        reports: name for the legend -> `CalibrationSums.report`; at most as many as COLORS.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no report, or too many.
    """
    _check_number(reports, "coverage_plot")
    figure, (axes,) = _figure((5.2, 5.2), columns=1)
    axes.plot([0, 100], [0, 100], color=FAINT, lw=1.4, label="calibrated")
    for (name, report), color, dashes in zip(reports.items(), COLORS, DASHES, strict=False):
        found = {float(level): share for level, share in report["coverage"].items()}
        points = [(0, 0), *((100 * level, 100 * found[level]) for level in sorted(found))]
        label = f"{name}: gap {100 * report['ece']:.1f} points"
        axes.plot(*zip(*points, strict=True), color=color, ls=dashes, lw=2.2, marker="o", ms=5,
                  label=label)  # fmt: skip
    axes.text(4, 96, "stated errors too large", color=FAINT, fontsize=10, va="top")
    axes.text(97, 4, "stated errors too small", color=FAINT, fontsize=10, ha="right")
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal",
             xlabel="expected in the interval (%)", ylabel="found in it (%)")  # fmt: skip
    figure.legend(loc="outside lower center", frameon=False, fontsize=11, labelcolor=INK)
    return _picture(figure)


def range_plot(ranges: Mapping[str, Mapping[str, float]]) -> Image.Image:
    """Bars of AbsRel by range of ground-truth depth, each with the number of pixels behind it.

    Args:
        ranges: text of the range in metres, as "5-10" -> "abs_rel" and "num_valid" (pixels), near
            to far. A range without pixels has abs_rel None or NaN and gets no bar.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no range.
    """
    if not ranges:
        raise ValueError("range_plot needs at least one range of depth")
    figure, (axes,) = _figure((max(4.5, 1.5 + 1.05 * len(ranges)), 4.0), columns=1)
    heights = np.nan_to_num([row["abs_rel"] or 0.0 for row in ranges.values()])
    axes.bar(range(len(heights)), heights, width=0.72, color=COLORS[0])
    axes.set_ylim(0, max(1.18 * heights.max(), 1e-6))
    for place, (height, row) in enumerate(zip(heights, ranges.values(), strict=True)):
        number = f"{height:.3f}" if row["num_valid"] else "none"
        for text, offset, color, size in (
            (number, 17, INK, 11),
            (f"{_short(row['num_valid'])} px", 4, FAINT, 9),
        ):
            axes.annotate(text, (place, height), (0, offset), textcoords="offset points",
                          ha="center", color=color, fontsize=size)  # fmt: skip
    axes.set_xticks(range(len(ranges)), [name.replace("-", "–") for name in ranges])
    axes.set(xlabel="ground-truth depth (m)")
    axes.set_title("AbsRel", color=INK, fontsize=13, loc="left", fontweight="bold")
    axes.grid(visible=False, axis="x")
    return _picture(figure)


def budget_plot(
    methods: Mapping[str, Points], published: Mapping[str, Points], *, ticks: Mapping[float, str]
) -> Image.Image:
    """AbsRel over the number of labels, a line a method; what others published dashed and hollow.

    Args:
        methods: name for the legend -> (labels, mean, std) of each budget; std None has no bar. A
            method without points keeps its colour. At most as many as COLORS.
        published: the same of some of these names; a legend entry says "paper".
        ticks: number of labels -> its text. Points of one number stand a little beside each other.

    Returns:
        An RGB picture.

    Raises:
        ValueError: no method, too many, no tick, or a published name that is none of the methods.
    """
    _check_number(methods, "budget_plot")
    if not ticks or published.keys() - methods.keys():
        raise ValueError("budget_plot needs ticks, and published names among the methods")
    figure, (axes,) = _figure((8.4, 5.0), columns=1)
    left, right = np.log10([min(ticks), max(ticks)])
    margin = max(0.06 * (right - left), 0.15)
    step = (0.009 if len(ticks) > 1 else 0.1) * (right - left + 2 * margin)  # between neighbours
    shift = {name: 10 ** (step * (k - (len(methods) - 1) / 2)) for k, name in enumerate(methods)}
    looks = {name: {"color": color, "marker": marker, "ms": 7, "capsize": 3, "elinewidth": 1.2}
             for name, color, marker in zip(methods, COLORS, MARKERS, strict=False)}  # fmt: skip
    paper = {"lw": 1.2, "ls": (0, (4, 3)), "mfc": "white"}
    lines = [(name, points, name, {"lw": 2.2, "zorder": 3}) for name, points in methods.items()]
    lines += [(name, points, f"{name} (paper)", paper) for name, points in published.items()]
    for name, points, label, style in lines:
        if points:
            x, mean, std = (np.asarray(c, np.float64) for c in zip(*sorted(points), strict=True))
            axes.errorbar(x * shift[name], mean, std, label=label, **looks[name], **style)
    axes.set(xscale="log", xlim=(10 ** (left - margin), 10 ** (right + margin)),
             xlabel="labelled frames")  # fmt: skip
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.minorticks_off()
    axes.set_title("AbsRel, mean ± sample std over seeds", color=INK, fontsize=13, loc="left",
                   fontweight="bold")  # fmt: skip
    figure.legend(loc="outside lower center", ncols=2 if published else len(lines),
                  frameon=False, fontsize=11, labelcolor=INK)  # fmt: skip
    return _picture(figure)


def _figure(inches: tuple[float, float], *, columns: int) -> tuple[Figure, list[Axes]]:
    """An empty figure of (width, height) with its panels in one row."""
    figure = Figure(figsize=inches, dpi=DPI, layout="constrained", facecolor="white")
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(FAINT)
        axes.tick_params(colors=INK, labelsize=10, length=0)
        axes.grid(color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.label.set(color=INK, size=11)
        axes.yaxis.label.set(color=INK, size=11)
    return figure, panels


def _picture(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def _check_number(drawn: Mapping[str, object], what: str) -> None:
    if not 1 <= len(drawn) <= len(COLORS):
        raise ValueError(f"{what} draws 1 to {len(COLORS)} methods, got {len(drawn)}")


def _short(count: float) -> str:
    """A count in three digits or so: 950, 12k, 3.4M."""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if count >= 0.9995 * size:  # what three digits round up to it
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"
