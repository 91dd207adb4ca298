"""How each dataset is prepared: find its splits, check them, say by which rule they were made.

Each function fills the report and returns the text of the lists to write, name -> text. Ours.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath

from datasets import DATASETS, hold_out, kitti_split, plausible, sources, splits
from datasets.frame import DataError
from datasets.images import ImageFolder
from datasets.inspection import Inspector, known_title
from datasets.kitti import Kitti
from datasets.nyu import Nyu
from datasets.nyu_variants import is_held_out
from datasets.report import Report, list_text
from datasets.rgbd import RgbdList
from datasets.verify import Finding, held_out
from datasets.virtual_kitti import VAL_SCENES, VirtualKitti

KITTI_RULES = {
    "train": "frames with ground truth, left camera, on the Eigen training drives but "
    + ", ".join(sorted(kitti_split.VAL_DRIVES)),
    "train_all": "frames with ground truth, left camera, on the 33 Eigen training drives",
    "val": "frames with ground truth, left camera, on the training drives "
    + ", ".join(sorted(kitti_split.VAL_DRIVES)),
    "test": "the 652 Eigen test frames that have annotated ground truth",
}
NYU_RULES = {
    "train": "training frames but those of every 20th scene, by a hash of the scene's name",
    "train_all": "all training frames",
    "val": "training frames of every 20th scene, by a hash of the scene's name",
    "test": "all frames of the test folder",
}
VIRTUAL_KITTI_RULES = {
    "train": f"left camera, all scenes but {', '.join(sorted(VAL_SCENES))}, all conditions",
    "val": f"left camera, {', '.join(sorted(VAL_SCENES))}, all conditions",
    "all": "left camera, all scenes and conditions",
}
Lists = dict[str, str]


def prepare_kitti(args: Namespace, report: Report) -> Lists:
    """Lists train, train_all, val and test of KITTI."""
    report.show_sources(sources.KITTI)
    found = _open_all(report, Kitti, args.root, KITTI_RULES, variant=args.variant)
    if found:
        report.recognised(_kitti_layout(next(iter(found.values()))))
    inspector = _inspector(args, report, "kitti", args.variant)
    return _finish(inspector, found, KITTI_RULES, lambda _, frame_id: frame_id, ["train_all"])


def prepare_virtual_kitti(args: Namespace, report: Report) -> Lists:
    """Lists train, val and all of Virtual KITTI 2."""
    report.show_sources(sources.VIRTUAL_KITTI)
    found = _open_all(report, VirtualKitti, args.root, VIRTUAL_KITTI_RULES)
    if found:
        places = {_top(path, args.root) for path in next(iter(found.values())).paths(0).values()}
        report.recognised(f"Virtual KITTI 2, pictures and depth under {', '.join(sorted(places))}")
    inspector = _inspector(args, report, "virtual_kitti", None)
    return _finish(
        inspector, found, VIRTUAL_KITTI_RULES, lambda _, frame_id: frame_id, ["all"]
    )


def prepare_nyu(args: Namespace, report: Report) -> Lists:
    """Lists train, train_all, val and test of NYU in one of its forms."""
    report.show_sources(sources.NYU[args.variant])
    rules = dict(NYU_RULES)
    if args.train_list:
        found = _nyu_from_lists(args, report, rules)
    else:
        found = _open_all(report, Nyu, args.root, rules, variant=args.variant)
    if found:
        place = _top(next(iter(found.values())).paths(0)["image"], args.root)
        report.recognised(f"NYU Depth v2, variant {args.variant}, first pictures in {place}")
    if args.test_scenes:
        scenes = {words[1] for words in splits.read_list(args.test_scenes, columns=(2,))}
        for name, dataset in found.items():
            if name != "test":
                report.add(held_out(name, dataset.frame_ids, dataset.scene_of, scenes))
    inspector = _inspector(args, report, "nyu", args.variant)
    row = _labeled_row if args.variant == "labeled" else _pair_row
    return _finish(inspector, found, rules, row, ["train_all"])


def prepare_images(args: Namespace, report: Report) -> Lists:
    """List `all` of a folder of unlabelled pictures."""
    report.show_sources(sources.IMAGES)
    rules = {"all": "every picture under the root"}
    found = _open_all(report, ImageFolder, args.root, rules)
    for dataset in found.values():
        folders = {dataset.scene_of(frame_id) for frame_id in dataset.frame_ids}
        report.recognised(f"{len(dataset):,} unlabelled pictures in {len(folders):,} folders")
    return _finish(
        _inspector(args, report, "images", None), found, rules, lambda _, frame_id: frame_id, []
    )


def prepare_rgbd(args: Namespace, report: Report) -> Lists:
    """Lists train and val out of the lists of the user's own RGB-D frames."""
    report.show_sources(sources.RGBD)
    rows = _read_rows(args.root, args.list, args.depth_scale)
    ids = [row[0] for row in rows]
    report.recognised(f"RGB-D list of {len(rows):,} lines from {', '.join(args.list)}")
    cut, rule = _cut(args, ids)
    if cut.dropped:
        message = (
            f"val is {len(cut.val):,} frames in one block per scene; {len(cut.dropped):,} frames "
            f"beside the blocks are in no list, so no frame of val has one of train within "
            f"{args.gap} frames"
        )
        report.add([Finding("note", "lists", message)])
    if not cut.val:
        message = "no validation list (--hold-out none): the best checkpoint needs one"
        report.add([Finding("warning", "lists", message)])
    texts = {
        name: list_text(rows[index] for index in indices)
        for name, indices in (("train", cut.train), ("val", cut.val))
        if indices
    }
    scratch = args.out or Path(args.root, "splits")
    found = {}
    args.write(scratch, texts)
    for name in texts:
        path = str(Path(scratch, f"{name}.txt"))
        found[name] = RgbdList(args.root, path, depth_scale=args.depth_scale)
    inspector = _inspector(args, report, "rgbd", None)
    inspector.may_share = "scenes" if args.hold_out == "frames" else "nothing"
    inspector.reach = args.gap if args.hold_out == "frames" else 1
    _finish(inspector, found, dict.fromkeys(texts, rule), lambda *_: "", [], seed=args.seed)
    return texts
