"""How each dataset is prepared: find its splits, check them, make their lists. Ours.

Each function takes the command's options, fills the report and returns the lists to write as
name -> text.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields, replace
from functools import partial
from itertools import combinations
from pathlib import Path

from datasets import DATASETS, plausible, rules, sources, splits
from datasets.frame import DataError
from datasets.hold_out import HoldOut, hold_out_frames, hold_out_scenes
from datasets.images import ImageFolder
from datasets.inspection import inspector_for, known_title, role_of
from datasets.kitti import Kitti
from datasets.opening import enter, first_files, list_paths, listed_in, open_splits
from datasets.report import Report
from datasets.rgbd import RgbdList
from datasets.selection import Selection
from datasets.synthetic import VARIANTS as SYNTHETIC_VARIANTS
from datasets.synthetic import Synthetic
from datasets.synthetic_tree import SPLITS, SyntheticSettings, write_tree
from datasets.verify import Finding, name_some
from datasets.virtual_kitti import VirtualKitti

Lists = dict[str, str]


def prepare_kitti(args: Namespace, report: Report) -> Lists:
    """Lists train, train_all, val and test of KITTI."""
    report.show_sources(sources.KITTI)
    found = open_splits(report, partial(Kitti, variant=args.variant), args.root, rules.KITTI)
    if found:
        report.recognised(rules.kitti_layout(next(iter(found.values()))))
    lists = enter(args, report, found, rules.KITTI, listed_in(args.root, found))
    inspector_for(args, report, "kitti", args.variant).all_splits(found, pools=("train_all",))
    return lists


def prepare_virtual_kitti(args: Namespace, report: Report) -> Lists:
    """Lists train, val and all of Virtual KITTI 2."""
    report.show_sources(sources.VIRTUAL_KITTI)
    found = open_splits(report, VirtualKitti, args.root, rules.VIRTUAL_KITTI)
    if found:
        report.recognised(f"Virtual KITTI 2, {first_files(found)}")
    lists = enter(args, report, found, rules.VIRTUAL_KITTI, listed_in(args.root, found))
    inspector_for(args, report, "virtual_kitti", None).all_splits(found, pools=("all",))
    return lists


def prepare_synthetic(args: Namespace, report: Report) -> Lists:
    """Render the embedded dataset, one tree per look; each has its lists inside."""
    report.show_sources(sources.SYNTHETIC)
    keys = [field.name for field in fields(SyntheticSettings)]
    settings = SyntheticSettings(**{key: getattr(args, key) for key in keys})
    settings = replace(settings, image_size=tuple(settings.image_size))
    for look in ("look_a", "look_b") if args.look == "both" else (args.look,):
        folder = write_tree(args.out / look, look, settings, args.workers)
        report.recognised(f"synthetic streets, {settings.num_frames:,} frames in {folder}")
        names = [name for name in SPLITS if getattr(settings, f"num_{name}_scenes")]
        found = open_splits(report, partial(Synthetic, variant=look), args.root, names)
        found = {f"{look}/{name}": dataset for name, dataset in found.items()}
        inspector_for(args, report, "synthetic", look).all_splits(found)
        enter(args, report, found, dict.fromkeys(found, f"rendered, seed {settings.seed}"), {})
    return {}


def prepare_images(args: Namespace, report: Report) -> Lists:
    """List `all` of a folder of unlabelled pictures."""
    report.show_sources(sources.IMAGES)
    found = open_splits(report, ImageFolder, args.root, rules.IMAGES)
    for dataset in found.values():
        folders = {dataset.scene_of(frame_id) for frame_id in dataset.frame_ids}
        report.recognised(f"{len(dataset):,} unlabelled pictures in {len(folders):,} folders")
    lists = enter(args, report, found, rules.IMAGES, listed_in(args.root, found))
    inspector_for(args, report, "images", None).all_splits(found)
    return lists


def prepare_rgbd(args: Namespace, report: Report) -> Lists:
    """Lists train and val out of one or more lists of one's own RGB-D frames."""
    report.show_sources(sources.RGBD)
    paths = list_paths(args, args.list, ("train", "val"))
    opener = partial(RgbdList, args.root, depth_scale=args.depth_scale)
    pool = Selection.union([opener(str(path)) for path in paths])
    rule = f"of the frames listed in {', '.join(map(str, paths))}"
    report.recognised(f"RGB-D, {len(pool):,} {rule}")
    cut, rule = _cut(args, report, pool, rule)
    found = {name: pool.part(part) for name, part in cut._asdict().items() if part}
    found.pop("dropped", None)
    lines = {row[0]: " ".join(row) for path in paths for row in splits.read_list(path)}

    def row(dataset, index: int) -> str:
        return lines[dataset.frame_ids[index]]

    words = dict.fromkeys(found, rule)
    lists = enter(args, report, found, words, {}, row=row, seed=args.seed)
    inspector = inspector_for(args, report, "rgbd", None)
    if args.hold_out == "frames":
        inspector.may_share, inspector.reach = "scenes", args.gap
    inspector.all_splits(found)
    return lists


def _cut(args: Namespace, report: Report, pool: Selection, rule: str) -> tuple[HoldOut, str]:
    """The cut that --hold-out asks for, and its rule in words."""
    ids, fraction = pool.frame_ids, args.fraction
    if args.hold_out == "none":
        message = "no validation list is made (--hold-out none); choosing a checkpoint needs one"
        report.add([Finding("warning", "lists", message)])
        return HoldOut(list(range(len(ids))), [], []), f"all {rule}"
    if args.hold_out == "scenes":
        cut = hold_out_scenes(ids, pool.scene_of, fraction=fraction, seed=args.seed)
        scenes = sorted({pool.scene_of(ids[index]) for index in cut.val})
        share = len(cut.val) / len(ids)
        message = (
            f"val is {len(scenes)} whole scenes, {share:.0%} of the frames: {name_some(scenes)}"
        )
        report.add([Finding("note", "lists", message)])
        return cut, f"{rule}, {fraction:g} held out as val by whole scenes"
    cut = hold_out_frames(ids, pool.scene_of, fraction=fraction, gap=args.gap, seed=args.seed)
    message = (
        f"val is one block of frames of every scene that is long enough; {len(cut.dropped):,} "
        f"frames beside the blocks are in neither list, so that no frame of val has a frame of "
        f"train among its {args.gap} neighbours on either side"
    )
    report.add([Finding("note", "lists", message)])
    return cut, f"{rule}, {fraction:g} held out as val by blocks of frames, gap {args.gap}"


def check(args: Namespace, report: Report) -> Lists:
    """Check lists as they are, and against each other; makes none."""
    legal = [variant for name, variant in plausible.EXPECTED if name == args.dataset]
    dataset_class = _rendered if args.dataset == "synthetic" else DATASETS[args.dataset]
    opener = partial(dataset_class, variant=args.variant, depth_scale=args.depth_scale)
    wrong_scale = (args.dataset == "rgbd") == (args.depth_scale is None)
    if wrong_scale or (args.variant is not None and args.variant not in legal):
        opener(args.root, args.split[0])  # it knows what is legal, and raises
    found = open_splits(report, opener, args.root, args.split)
    for name in found:
        path = splits.find_list(args.root, name)
        rule = f"as listed in {path}" if path else f"by the rule of {args.dataset}"
        report.add([Finding("note", "lists", f"{name}: {rule}")])
        report.enter(name, found[name].frame_ids, rule, known=known_title(found[name].frame_ids))
    if found:
        report.recognised(f"{args.dataset}, {first_files(found)}")
    for one, other in combinations([name for name in found if role_of(name) == "train"], 2):
        shared = len(set(found[one].frame_ids) & set(found[other].frame_ids))
        message = f"{one} and {other}, both learnt from, share {shared:,} frames"
        report.add([Finding("note", "lists", message)])
    inspector = inspector_for(args, report, args.dataset, args.variant or next(iter(legal), None))
    inspector.may_share, inspector.reach = args.may_share, args.gap
    inspector.all_splits(found)
    return {}


def _rendered(root: str | Path, split: str, **options) -> Synthetic:
    """`Synthetic`, which renders where nothing is, only where something is."""
    look, _ = SYNTHETIC_VARIANTS.get(options["variant"] or "look_a", ("look_a", ""))
    if not Path(root, look).is_dir():
        raise DataError(
            f"{Path(root, look)}: no such folder; `datasets.prepare synthetic` makes it"
        )
    return Synthetic(root, split, **options)
