"""Find, check and list the files of a dataset before anyone trains on it. Ours.

    python -m datasets.prepare kitti --root data/kitti
    python -m datasets.prepare nyu --variant bts --root data/nyu --train-list train_files.txt
    python -m datasets.prepare nyu --variant labeled --mat labeled.mat --splits splits.mat --out DIR
    python -m datasets.prepare rgbd --root data/desk --depth-scale 1000 --list all.txt
    python -m datasets.prepare synthetic --out data/synthetic
    python -m datasets.prepare check --dataset kitti --root data/kitti --split train --split test

It says which layout it recognised, where the files come from and what is missing, decodes them, and
looks for wrong units and for test frames in training lists. Lists, manifest.json (length, sha256
and rule of each) and prepare_report.json are written to <root>/splits or --out. Nothing is ever
downloaded, and no file of the dataset is changed.

Exit codes: 0 fine, 1 problems found in the data, 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import DATASETS, preparation, preparation_nyu
from datasets.frame import DataError
from datasets.measure import NUM_SAMPLED, default_workers
from datasets.plausible import INDOOR_MEDIAN
from datasets.report import Report, check_writable, keep_rules, write_json, write_lists
from datasets.synthetic_tree import SyntheticSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code. Raises SystemExit(2) on unknown arguments."""
    args = parser().parse_args(argv)
    try:
        return _run(args)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(args: argparse.Namespace) -> int:
    _resolve_folders(args)
    settings = {
        key: value if isinstance(value, int | float | list | None) else str(value)
        for key, value in sorted(vars(args).items())
        if key not in ("run", "command", "json", "workers")
    }
    report = Report(args.command, str(args.root), settings=settings)
    lists = args.run(args, report)
    if args.command != "check" and report.lists:
        write_lists(args.out, lists)
        report.lists = keep_rules(report.lists, args.out / "manifest.json")
        write_json(args.out / "manifest.json", report.lists)
        write_json(args.out / "prepare_report.json", report.as_dict())
        print(f"written to {args.out}: {', '.join([*lists, 'manifest.json, prepare_report.json'])}")
    if args.json:
        write_json(Path(args.json), report.as_dict())
    problems, warnings = report.count("problem"), report.count("warning")
    print(f"problems: {problems}, warnings: {warnings}")
    return 1 if problems else 0


def _resolve_folders(args: argparse.Namespace) -> None:
    """Fill in root and out: lists go to <root>/splits unless --out says otherwise."""
    if args.command == "synthetic":
        args.root, args.out, args.force = args.out, Path(args.out), False
        return
    if args.command == "nyu" and args.mat:
        if args.variant != "labeled" or args.root or not args.out:
            raise DataError("--mat goes with --variant labeled and --out, and without --root")
        args.root, args.out, args.run = args.out, None, preparation_nyu.prepare_labeled
        check_writable(Path(args.root))
    elif not args.root or not Path(args.root).is_dir():
        raise DataError(f"--root {args.root}: no such folder" if args.root else "--root is needed")
    if args.command != "check":
        args.out = Path(args.out or Path(args.root, "splits"))
        check_writable(args.out)


def parser() -> argparse.ArgumentParser:
    """The command line: one sub-command per dataset, and check."""
    top = argparse.ArgumentParser(
        prog="python -m datasets.prepare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="DATASET")

    def command(name: str, run, help: str, *, root: bool = True) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=help)
        sub.set_defaults(run=run)
        if root:
            sub.add_argument("--root", required=name != "nyu", help="folder of the dataset")
        return sub

    kitti = command("kitti", preparation.prepare_kitti, "KITTI raw with annotated depth")
    kitti.add_argument("--variant", choices=["annotated", "velodyne_raw"], default="annotated")
    nyu = command(
        "nyu",
        preparation_nyu.prepare_nyu,
        "NYU Depth v2, in the form BTS or DenseDepth "
        "distribute, or from the official labelled file",
    )
    _add_nyu(nyu)
    virtual = command("virtual_kitti", preparation.prepare_virtual_kitti, "Virtual KITTI 2")
    rgbd = command("rgbd", preparation.prepare_rgbd, "your own RGB-D frames: cut a validation list")
    _add_rgbd(rgbd)
    images = command("images", preparation.prepare_images, "unlabelled pictures in any folders")
    for sub in (kitti, nyu, virtual, rgbd, images):
        _add_writing(sub)
        _add_decoding(sub)
    synthetic = command(
        "synthetic", preparation.prepare_synthetic, "render the embedded dataset", root=False
    )
    synthetic.add_argument("--out", required=True, metavar="DIR", help="root of the dataset")
    _add_synthetic(synthetic)
    _add_decoding(synthetic)
    check = command(
        "check", preparation.check, "check existing lists, alone and against each other"
    )
    _add_check(check)
    _add_decoding(check)
    return top


def _add_nyu(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--variant", choices=["bts", "densedepth", "labeled"], required=True)
    sub.add_argument(
        "--train-list", nargs="+", metavar="FILE", help="lists of training frames, instead of all"
    )
    sub.add_argument(
        "--test-scenes",
        metavar="FILE",
        help="list of '<number> <scene>' lines, such as the test list that --variant labeled "
        "makes: no training list may name these scenes",
    )
    sub.add_argument("--mat", metavar="FILE", help="extract nyu_depth_v2_labeled.mat into --out")
    sub.add_argument("--splits", metavar="FILE", help="the official splits.mat, with --mat")


def _add_rgbd(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--depth-scale", type=_positive, required=True, help="stored units per metre: 1000 = mm"
    )
    sub.add_argument(
        "--list", nargs="+", required=True, metavar="FILE", help="lists of 'rgb depth [fx]' lines"
    )
    sub.add_argument(
        "--hold-out",
        choices=["scenes", "frames", "none"],
        default="scenes",
        help="what the validation list is: whole scenes (folders), blocks of frames, or nothing",
    )
    sub.add_argument("--fraction", type=float, default=0.1, help="share held out (0.1)")
    sub.add_argument(
        "--gap", type=int, default=10, help="frames dropped on each side of a block (10)"
    )
    sub.add_argument("--seed", type=int, default=0, help="of what is held out (0)")
    _add_median_range(sub)


def _add_check(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--dataset", choices=list(DATASETS), required=True)
    sub.add_argument(
        "--split",
        action="append",
        required=True,
        metavar="NAME",
        help="name of a split or path of a list; repeat it to compare splits. Names with 'test' "
        "or 'val' in them are for testing and validation, all others are learnt from",
    )
    sub.add_argument("--variant", help="as in the config")
    sub.add_argument("--depth-scale", type=_positive, help="rgbd only: stored units per metre")
    sub.add_argument(
        "--may-share",
        choices=["nothing", "scenes"],
        default="nothing",
        help="what validation may have in common with training (nothing)",
    )
    sub.add_argument(
        "--gap", type=int, default=1, help="frames at most this far apart are neighbours (1)"
    )
    _add_median_range(sub)


def _add_synthetic(sub: argparse.ArgumentParser) -> None:
    default = SyntheticSettings()
    sub.add_argument("--look", choices=["look_a", "look_b", "both"], default="look_a")
    for name in ("train", "val", "test"):
        key = f"num_{name}_scenes"
        count = getattr(default, key)
        sub.add_argument(
            f"--{name}-scenes", dest=key, type=int, default=count, help=f"streets ({count})"
        )
    count = default.frames_per_scene
    sub.add_argument("--frames-per-scene", type=int, default=count, help=f"frames ({count})")
    sub.add_argument(
        "--image-size", type=int, nargs=2, default=default.image_size, metavar=("H", "W")
    )
    sub.add_argument("--seed", type=int, default=default.seed, help="another seed, other streets")


def _add_median_range(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--median-range",
        type=_positive,
        nargs=2,
        default=INDOOR_MEDIAN,
        metavar=("LOW", "HIGH"),
        help="rgbd: metres within which the median depth is plausible (indoors: 0.3 8)",
    )


def _add_decoding(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--decode",
        choices=["none", "sample", "all"],
        default="sample",
        help=f"decode no frame, {NUM_SAMPLED} of each split spread evenly, or all (sample)",
    )
    sub.add_argument(
        "--workers", type=int, default=default_workers(), help="processes that decode; 0: this one"
    )
    sub.add_argument("--json", metavar="FILE", help="also write the report to this file")


def _add_writing(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--out", metavar="DIR", help="where lists go (<root>/splits)")
    sub.add_argument("--force", action="store_true", help="replace lists of other content")


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


if __name__ == "__main__":
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # the reader, such as `head`, left; what is on disk is complete or absent
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
