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

from datasets import DATASETS, nyu_labeled, plausible, rules, sources, splits
from datasets.frame import DataError
from datasets.hold_out import HoldOut, hold_out_frames, hold_out_scenes
from datasets.images import ImageFolder
from datasets.inspection import Inspector, known_title, role_of
from datasets.kitti import Kitti
from datasets.nyu import Nyu
from datasets.nyu_variants import VARIANTS, is_held_out
from datasets.opening import enter, first_files, list_paths, listed_in, open_splits, opens
from datasets.report import Report, write_lists
from datasets.rgbd import RgbdList
from datasets.selection import Selection
from datasets.synthetic import VARIANTS as SYNTHETIC_VARIANTS
from datasets.synthetic import Synthetic
from datasets.synthetic_tree import SPLITS, SyntheticSettings, write_tree
from datasets.verify import Finding, held_out, name_some
from datasets.virtual_kitti import VirtualKitti

Lists = dict[str, str]


def prepare_kitti(args: Namespace, report: Report) -> Lists:
    """Lists train, train_all, val and test of KITTI."""
    report.show_sources(sources.KITTI)
    found = open_splits(report, partial(Kitti, variant=args.variant), args.root, rules.KITTI)
    if found:
        report.recognised(rules.kitti_layout(next(iter(found.values()))))
    _inspect(_inspector(args, report, "kitti", args.variant), found, pools=("train_all",))
    return enter(args, report, found, rules.KITTI, listed_in(args.root, found))


def prepare_virtual_kitti(args: Namespace, report: Report) -> Lists:
    """Lists train, val and all of Virtual KITTI 2."""
    report.show_sources(sources.VIRTUAL_KITTI)
    found = open_splits(report, VirtualKitti, args.root, rules.VIRTUAL_KITTI)
    if found:
        report.recognised(f"Virtual KITTI 2, {first_files(found)}")
    _inspect(_inspector(args, report, "virtual_kitti", None), found, pools=("all",))
    return enter(args, report, found, rules.VIRTUAL_KITTI, listed_in(args.root, found))


def prepare_nyu(args: Namespace, report: Report) -> Lists:
    """Lists train, train_all, val and test of NYU Depth v2 in one of its forms."""
    report.show_sources(sources.NYU[args.variant])
    opener, words = partial(Nyu, variant=args.variant), dict(rules.NYU)
    if args.train_list:
        paths = list_paths(args, args.train_list, ("train", "train_all", "val"))
        pool = Selection.union([opener(args.root, str(path)) for path in paths])
        words["train_all"] = f"as listed in {', '.join(map(str, paths))}"
        found = {
            "train_all": pool,
            **_by_scene(pool),
            **open_splits(report, opener, args.root, ["test"], required=False),
        }
        listed = listed_in(args.root, ["test"])
    else:
        found = open_splits(report, opener, args.root, words)
        listed = listed_in(args.root, found)
    if found:
        report.recognised(f"NYU Depth v2, variant {args.variant}, {first_files(found)}")
    else:
        report.add(_other_variant(args.root))
    if args.test_scenes:
        scenes = {Nyu.scene_of(f"{row[1]}/") for row in splits.read_list(args.test_scenes, (2,))}
        for name in sorted(set(found) - {"test"}):
            report.add(held_out(name, found[name].frame_ids, Nyu.scene_of, scenes))
    _inspect(_inspector(args, report, "nyu", args.variant), found, pools=("train_all",))
    row = rules.row_of_labeled if args.variant == "labeled" else rules.row_of_pair
    return enter(args, report, found, words, listed, row=row)


def _by_scene(pool: Selection) -> dict[str, Selection]:
    held = [index for index, name in enumerate(pool.frame_ids) if is_held_out(Nyu.scene_of(name))]
    rest = sorted(set(range(len(pool))) - set(held))
    return {name: pool.part(part) for name, part in (("train", rest), ("val", held)) if part}


def _other_variant(root: str) -> list[Finding]:
    for variant in VARIANTS:
        if opens(partial(Nyu, variant=variant), root, ("train_all", "all")):
            message = f"the files under {root} are of another form: pass --variant {variant}"
            return [Finding("problem", "lists", message)]
    return []


def prepare_labeled(args: Namespace, report: Report) -> Lists:
    """Extract the official labelled file of NYU; lists train, train_all, val and test."""
    report.show_sources(sources.NYU["labeled"])
    folder = Path(args.root, "labeled")
    scenes, findings = nyu_labeled.extract(
        Path(args.mat), folder, workers=args.workers, force=args.force
    )
    report.add(findings)
    report.recognised(f"the official labelled NYU file, extracted to {folder}")
    if args.splits is None:
        message = "without --splits splits.mat there is no train and test list, only split 'all'"
        report.add([Finding("warning", "lists", message)])
        found = open_splits(report, partial(Nyu, variant="labeled"), args.root, ["all"])
        _inspect(_inspector(args, report, "nyu", "labeled"), found)
        return {}
    halves, findings = nyu_labeled.official_halves(Path(args.splits), len(scenes))
    report.add(findings)
    rows = {name: [(n, scenes[n - 1]) for n in half] for name, half in halves.items()}
    pool = rows["train_all"] = rows["train"]
    for name, held in (("train", False), ("val", True)):
        rows[name] = [row for row in pool if is_held_out(Nyu.scene_of(f"{row[1]}/")) == held]
    texts = {name: "".join(f"{n} {scene}\n" for n, scene in part) for name, part in rows.items()}
    write_lists(args.out, {name: text for name, text in texts.items() if text}, force=args.force)
    found = open_splits(report, partial(Nyu, variant="labeled"), args.root, rules.NYU)
    _inspect(_inspector(args, report, "nyu", "labeled"), found, pools=("train_all",))
    enter(args, report, found, rules.NYU, {})
    return {}


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
        _inspect(_inspector(args, report, "synthetic", look), found)
        enter(args, report, found, dict.fromkeys(found, f"rendered, seed {settings.seed}"), {})
    return {}


def prepare_images(args: Namespace, report: Report) -> Lists:
    """List `all` of a folder of unlabelled pictures."""
    report.show_sources(sources.IMAGES)
    found = open_splits(report, ImageFolder, args.root, rules.IMAGES)
    for dataset in found.values():
        folders = {dataset.scene_of(frame_id) for frame_id in dataset.frame_ids}
        report.recognised(f"{len(dataset):,} unlabelled pictures in {len(folders):,} folders")
    _inspect(_inspector(args, report, "images", None), found)
    return enter(args, report, found, rules.IMAGES, listed_in(args.root, found))


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
    inspector = _inspector(args, report, "rgbd", None)
    if args.hold_out == "frames":
        inspector.may_share, inspector.reach = "scenes", args.gap
    _inspect(inspector, found)
    lines = {row[0]: " ".join(row) for path in paths for row in splits.read_list(path)}
    words = dict.fromkeys(found, rule)

    def row(dataset, index: int) -> str:
        return lines[dataset.frame_ids[index]]

    return enter(args, report, found, words, {}, row=row, seed=args.seed)


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
    inspector = _inspector(args, report, args.dataset, args.variant or next(iter(legal), None))
    inspector.may_share, inspector.reach = args.may_share, args.gap
    _inspect(inspector, found)
    return {}


def _rendered(root: str | Path, split: str, **options) -> Synthetic:
    """`Synthetic`, which renders where nothing is, only where something is."""
    look, _ = SYNTHETIC_VARIANTS.get(options["variant"] or "look_a", ("look_a", ""))
    if not Path(root, look).is_dir():
        raise DataError(
            f"{Path(root, look)}: no such folder; `datasets.prepare synthetic` makes it"
        )
    return Synthetic(root, split, **options)


def _inspector(args: Namespace, report: Report, dataset: str, variant: str | None) -> Inspector:
    expected = plausible.EXPECTED.get((dataset, variant))
    if dataset == "rgbd":
        expected = plausible.own_data(args.depth_scale, tuple(args.median_range))
    return Inspector(report, dataset, variant, args.decode, args.workers, expected)


def _inspect(inspector: Inspector, found: dict, *, pools: tuple[str, ...] = ()) -> None:
    for name, dataset in found.items():
        inspector.split(name, dataset)
    inspector.leaks(found, pools)
