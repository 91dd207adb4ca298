"""Whether depths can be metres: the mistakes of scale, bit depth and direction that never crash.

A network trains happily on millimetres read as 1/256 m. What the depth of each dataset looks like
is known, so such a mistake shows in its median. Ours; bounds are wide enough for honest copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from datasets.measure import FrameStats
from datasets.verify import Finding, name_some

EIGHT_BIT_STEP = 8  # stored units; 10 m in 255 steps of millimetres are 39, 80 m of 1/256 m 80
DENSEDEPTH_UNITS = 25.5  # per metre


@dataclass(frozen=True)
class ExpectedDepth:
    """What is plausible for the depth of one dataset; wide enough for every honest copy of it.

    Attributes:
        units_per_metre: stored value of one metre.
        median: bounds in metres on the median frame's median depth.
        farthest: metres that no measurement exceeds.
        valid_fraction: bounds on the median frame's share of measured pixels.
        nearer_below: the camera looks along a road, which is nearest at the bottom of a frame.
    """

    units_per_metre: float
    median: tuple[float, float]
    farthest: float
    valid_fraction: tuple[float, float]
    nearer_below: bool = False


STREET_MEDIAN = (3.0, 40.0)
INDOOR_MEDIAN = (0.3, 8.0)


def _street(units_per_metre, farthest, valid_fraction) -> ExpectedDepth:
    return ExpectedDepth(units_per_metre, STREET_MEDIAN, farthest, valid_fraction, True)


# (dataset, variant); a lidar of KITTI's kind reaches 120 m
EXPECTED = {
    ("kitti", "annotated"): _street(256.0, 130.0, (0.05, 0.5)),
    ("kitti", "velodyne_raw"): _street(256.0, 130.0, (0.01, 0.15)),
    ("synthetic", "look_a"): _street(256.0, 256.0, (0.3, 1.0)),
    ("synthetic", "look_b"): _street(256.0, 256.0, (0.3, 1.0)),
    ("synthetic", "look_a_sparse"): _street(256.0, 256.0, (0.005, 0.3)),
    ("synthetic", "look_b_sparse"): _street(256.0, 256.0, (0.005, 0.3)),
    ("virtual_kitti", None): _street(100.0, 655.35, (0.5, 1.0)),
    ("nyu", "bts"): ExpectedDepth(1000.0, INDOOR_MEDIAN, 10.5, (0.25, 1.0)),
    ("nyu", "densedepth"): ExpectedDepth(DENSEDEPTH_UNITS, INDOOR_MEDIAN, 10.5, (0.5, 1.0)),
    ("nyu", "labeled"): ExpectedDepth(1000.0, INDOOR_MEDIAN, 10.5, (0.25, 1.0)),
    ("nyu", "labeled_filled"): ExpectedDepth(1000.0, INDOOR_MEDIAN, 10.5, (0.9, 1.0)),
}


def own_data(depth_scale: float, median_range: tuple[float, float]) -> ExpectedDepth:
    """What is plausible of files that a list names: nothing lies far beyond the usual median."""
    return ExpectedDepth(depth_scale, median_range, 3 * median_range[1], (0.02, 1.0))


SCALES = {
    256.0: "KITTI's value / 256",
    1000.0: "millimetres",
    5000.0: "TUM's value / 5000",
    100.0: "centimetres",
    DENSEDEPTH_UNITS: "DenseDepth's 8-bit value / 25.5",
}


def units(stats: Sequence[FrameStats], split: str, expected: ExpectedDepth) -> list[Finding]:
    """Whether measured depths, in metres, can be what `expected` says they are."""
    measured = [one for one in stats if not one.error and one.valid_fraction]
    if not measured:
        return []
    findings = []
    typical = median(one.median for one in measured)
    farthest = max(one.maximum for one in measured)
    share = median(one.valid_fraction for one in measured)
    low, high = expected.median
    if not low <= typical <= high:
        message = (
            f"{split}: the median depth is {typical:.3g} m, expected {low:g} to {high:g} m"
            f"{_better_scale(typical, expected)}"
        )
        findings.append(Finding("problem", "units", message))
    elif farthest > expected.farthest:
        far = [one.frame_id for one in measured if one.maximum > expected.farthest]
        message = (
            f"{split}: {len(far):,} frames hold depths up to {farthest:.4g} m, expected at most "
            f"{expected.farthest:g} m: {name_some(far)}; a wrong unit, or 'no measurement' stored "
            "as the largest value instead of 0"
        )
        findings.append(Finding("problem", "units", message))
    else:
        findings += _odd_frames(measured, split, expected)
    findings += _eight_bit(measured, split, expected) + _inverted(measured, split, expected)
    low, high = expected.valid_fraction
    if not low <= share <= high:
        message = (
            f"{split}: {share:.1%} of the pixels are measured, usual are {low:.0%} to {high:.0%}; "
            "another kind of ground truth than the variant says?"
        )
        findings.append(Finding("warning", "units", message))
    message = (
        f"{split}: median depth {typical:.2f} m, farthest {farthest:.1f} m, "
        f"{share:.1%} of the pixels measured (medians over {len(measured):,} frames)"
    )
    return [*findings, Finding("note", "units", message)]


def _better_scale(typical: float, expected: ExpectedDepth) -> str:
    """Which known unit would bring the median depth of `typical` metres into the bounds."""
    low, high = expected.median
    fits = [
        name
        for scale, name in SCALES.items()
        if scale != expected.units_per_metre
        and low <= typical * expected.units_per_metre / scale <= high
    ]
    now = SCALES.get(expected.units_per_metre, f"value / {expected.units_per_metre:g}")
    return f"; read as {now}, would fit as {' or '.join(fits)}" if fits else f"; read as {now}"


def _odd_frames(measured, split, expected) -> list[Finding]:
    """Single frames far outside the bounds, where the whole is within: files of another unit."""
    low, high = expected.median
    odd = [one for one in measured if not low / 2 <= one.median <= high * 2]
    if not odd:
        return []
    names = [f"{one.frame_id} ({one.median:.3g} m)" for one in odd]
    message = f"{split}: {len(odd):,} frames have an implausible median depth: {name_some(names)}"
    return [Finding("warning", "units", message)]


def _eight_bit(measured, split, expected) -> list[Finding]:
    """8-bit values in a 16-bit file: either as they were, or spread evenly over a larger range."""
    units = expected.units_per_metre
    if units == DENSEDEPTH_UNITS:
        return []  # its training depth is 8-bit by construction
    coarse = [
        one.frame_id
        for one in measured
        if one.maximum * units <= 255.5 or one.even_step * units >= EIGHT_BIT_STEP
    ]
    if len(coarse) <= len(measured) / 2:
        return []
    message = (
        f"{split}: {len(coarse):,} of {len(measured):,} depth maps hold 8-bit depth in a 16-bit "
        f"file, at most 256 values, evenly spaced: {name_some(coarse)}"
    )
    return [Finding("problem", "units", message)]


def _inverted(measured, split, expected) -> list[Finding]:
    # not the upper half: a lidar does not see far up there, but the façades beside the road
    both = [one for one in measured if one.median_middle and one.median_bottom]
    inverted = [one for one in both if one.median_bottom > one.median_middle]
    if not expected.nearer_below or len(inverted) <= len(both) / 2:
        return []
    message = (
        f"{split}: in {len(inverted):,} of {len(both):,} frames the road in the lowest quarter is "
        "farther than what is above it; is this disparity or inverse depth?"
    )
    return [Finding("problem", "units", message)]
