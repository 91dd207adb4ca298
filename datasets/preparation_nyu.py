"""How NYU Depth v2 is prepared, in the forms people have it. Ours; see `preparation`."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path

from datasets import nyu_labeled, rules, sources, splits
from datasets.inspection import inspector_for
from datasets.nyu import Nyu
from datasets.nyu_variants import VARIANTS, is_held_out
from datasets.opening import enter, first_files, list_paths, listed_in, open_splits, opens
from datasets.report import Report, refuse_to_replace, write_lists
from datasets.selection import Selection
from datasets.verify import Finding, held_out

Lists = dict[str, str]


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
        report.add(_other_variant(args.root, args.variant))
    row = rules.row_of_labeled if args.variant == "labeled" else rules.row_of_pair
    lists = enter(args, report, found, words, listed, row=row)
    report.add(_test_rooms(args, found))
    inspector_for(args, report, "nyu", args.variant).all_splits(found, pools=("train_all",))
    return lists


def _test_rooms(args: Namespace, found: dict) -> list[Finding]:
    """Whether training lists avoid the rooms of the test frames, which only the .mat file names."""
    if args.test_scenes:
        rows = splits.read_list(args.test_scenes, columns=(2,))
        rooms = {Nyu.scene_of(f"{scene}/") for _, scene in rows}
        return [
            finding
            for name in sorted(set(found) - {"test"})
            for finding in held_out(name, found[name].frame_ids, Nyu.scene_of, rooms)
        ]
    if args.variant == "labeled" or "test" not in found:
        return []
    message = (
        f"the test frames of variant {args.variant} do not name their rooms, so only frame names "
        "are compared; --test-scenes compares rooms"
    )
    return [Finding("note", "leakage", message)]


def _by_scene(pool: Selection) -> dict[str, Selection]:
    held = [index for index, name in enumerate(pool.frame_ids) if is_held_out(Nyu.scene_of(name))]
    rest = sorted(set(range(len(pool))) - set(held))
    return {name: pool.part(part) for name, part in (("train", rest), ("val", held)) if part}


def _other_variant(root: str, asked: str) -> list[Finding]:
    for variant in VARIANTS:
        if not opens(partial(Nyu, variant=variant), root, ("train_all", "all")):
            continue
        message = f"the files under {root} are of another form: pass --variant {variant}"
        if variant == asked:
            message = f"{root} holds extracted frames but no lists: extract again with --splits"
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
        words = {"all": "all extracted frames"}
        lists = enter(args, report, found, words, {}, row=rules.row_of_labeled)
        inspector_for(args, report, "nyu", "labeled").all_splits(found)
        return lists
    halves, findings = nyu_labeled.official_halves(Path(args.splits), len(scenes))
    report.add(findings)
    rows = {name: [(n, scenes[n - 1]) for n in half] for name, half in halves.items()}
    pool = rows["train_all"] = rows["train"]
    for name, held in (("train", False), ("val", True)):
        rows[name] = [row for row in pool if is_held_out(Nyu.scene_of(f"{row[1]}/")) == held]
    texts = {
        name: "".join(f"{n} {scene}\n" for n, scene in part) for name, part in rows.items() if part
    }
    if not args.force:
        refuse_to_replace(args.out, texts)
    write_lists(args.out, texts)  # the class reads them, and the scenes are nowhere else
    found = open_splits(report, partial(Nyu, variant="labeled"), args.root, rules.NYU)
    lists = enter(args, report, found, rules.NYU, {}, row=rules.row_of_labeled)
    inspector_for(args, report, "nyu", "labeled").all_splits(found, pools=("train_all",))
    return lists
