"""Look at the splits of a dataset, one by one and against each other, and report. Ours."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from datasets import kitti_split, plausible, verify
from datasets.measure import FrameStats, chosen, measure
from datasets.report import Report
from datasets.sources import EXPECTED_LISTS, KNOWN_LISTS, KnownList
from datasets.splits import list_sha256
from datasets.verify import Finding


@dataclass
class Inspector:
    """Checks splits of one dataset; a frame that two splits share is decoded once.

    Attributes:
        dataset_name, variant: as `datasets.DATASETS` and the class name them.
        decode: "none", "sample" or "all".
        workers: processes that decode; 0 = this one.
        expected: what its depths should look like; None where there is no depth.
        may_share: "nothing", or "scenes" where validation is cut from the training scenes.
        reach: frames closer than this in number are neighbours (`verify.leakage`).
    """

    report: Report
    dataset_name: str
    variant: str | None
    decode: str
    workers: int
    expected: plausible.ExpectedDepth | None
    may_share: str = "nothing"
    reach: int = 1
    _measured: dict[tuple[Path, ...], FrameStats] = field(default_factory=dict)

    def split(self, name: str, dataset) -> None:
        """Check one split by itself: which list it is, its files, their decoding and units."""
        report = self.report
        ought = EXPECTED_LISTS.get((self.dataset_name, self.variant, name))
        report.add(known_list(name, dataset.frame_ids, ought))
        there = verify.present(dataset)
        without_depth = frozenset(kitti_split.eigen_test_697()) - set(kitti_split.eigen_test_652())
        excused = without_depth if self.dataset_name == "kitti" else frozenset()
        labelled = self.expected is not None and "unlab" not in name
        report.add(verify.files(dataset, name, there, labelled=labelled, excused=excused))
        stats = self._measure(name, dataset, there)
        if not stats:
            return
        report.add(verify.decoding(stats, name, len(dataset)))
        if self.expected is not None:
            report.add(plausible.units(stats, name, self.expected))
        report.statistics[name] = summary(stats)

    def all_splits(self, splits: dict, *, pools: Collection[str] = ()) -> None:
        """Check every split by itself, name -> dataset, then all against each other."""
        for name, dataset in splits.items():
            self.split(name, dataset)
        self.leaks(splits, pools)

    def _measure(self, name: str, dataset, there: list[int]) -> list[FrameStats]:
        indices = [there[position] for position in chosen(len(there), self.decode)]
        # by its files, not its id: an unlabelled list may name a labelled frame without its depth
        keys = {index: tuple(dataset.paths(index).values()) for index in indices}
        new = [index for index in indices if keys[index] not in self._measured]
        stats = measure(dataset, new, workers=self.workers, label=f"decoding {name}")
        self._measured |= {keys[index]: one for index, one in zip(new, stats, strict=True)}
        return [self._measured[keys[index]] for index in indices]

    def leaks(self, splits: dict, pools: Collection[str] = ()) -> None:
        """Check the splits against each other, and all but the test split for test scenes.

        A split is for testing or validation if its name says so ("test", "val"), else frames are
        learnt from. `pools` contain the validation frames on purpose and are only compared to test.
        """
        roles = {name: role_of(name) for name in splits}
        for name, dataset in splits.items():
            if roles[name] != "test":
                ids, never = dataset.frame_ids, dataset.held_out_scenes
                self.report.add(verify.held_out(name, ids, dataset.scene_of, never))
        order = ("train", "val", "test")
        for one, other in ((a, b) for a in splits for b in splits if a != b):
            if order.index(roles[one]) >= order.index(roles[other]):
                continue
            if roles[other] == "val" and one in pools:
                continue
            self.report.add(
                verify.leakage(
                    (one, splits[one].frame_ids),
                    (other, splits[other].frame_ids),
                    splits[one].scene_of,
                    may_share=self.may_share if roles[other] == "val" else "nothing",
                    reach=self.reach,
                )
            )


def inspector_for(
    args: Namespace, report: Report, dataset_name: str, variant: str | None
) -> Inspector:
    """The inspector that the command's options ask for."""
    expected = plausible.EXPECTED.get((dataset_name, variant))
    if dataset_name == "rgbd":
        expected = plausible.own_data(args.depth_scale, tuple(args.median_range))
    return Inspector(report, dataset_name, variant, args.decode, args.workers, expected)


def role_of(split: str) -> str:
    """What frames of a split are for, by its name or its list's: "train", "val" or "test"."""
    name = PurePath(split).stem.lower()
    if "train" in name or "unlab" in name:
        return "train"
    return "test" if "test" in name else "val" if "val" in name else "train"


def known_list(split: str, frame_ids: Collection[str], ought: KnownList | None) -> list[Finding]:
    """Name the public list that a split is, or how it differs from the one it `ought` to be."""
    message = f"{split}: {len(frame_ids):,} frames"
    if title := known_title(frame_ids):
        return [Finding("note", "lists", f"{message}, this is {title}")]
    if ought is None or (not ought.sha256 and len(frame_ids) == ought.n):
        return [Finding("note", "lists", message)]
    message += f"; differs from {ought.title}: expected {ought.n:,} frames"
    if ought.sha256:
        message += f" and sha256 {ought.sha256}, this list has {list_sha256(frame_ids)}"
    return [Finding("warning", "lists", message)]


def known_title(frame_ids: Collection[str]) -> str:
    """What the public list with exactly these frames is called; empty if there is none."""
    # most lists are told from the known ones by their length, without hashing
    if len(frame_ids) not in {known.n for known in KNOWN_LISTS}:
        return ""
    digest = list_sha256(frame_ids)
    return next((known.title for known in KNOWN_LISTS if known.sha256 == digest), "")


def summary(stats: list[FrameStats]) -> dict:
    """Numbers of the decoded frames: sizes, modes, percentiles of depth in metres."""
    fine = [one for one in stats if not one.error]
    measured = [one for one in fine if one.valid_fraction]
    result: dict = {
        "num_decoded": len(stats),
        "num_unusable": len(stats) - len(fine),
        "image_sizes": sorted({one.image_size for one in fine}),
        "image_modes": sorted({one.image_mode for one in fine}),
    }
    if measured:
        for key in ("median", "maximum", "valid_fraction"):
            values = np.percentile([getattr(one, key) for one in measured], (5, 50, 95))
            result[f"{key}_p5_p50_p95"] = [round(float(value), 4) for value in values]
    return result
