"""Opening the splits of a dataset, and entering them into the manifest. Ours."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from pathlib import Path

from datasets import rules, splits
from datasets.frame import DataError
from datasets.inspection import known_title
from datasets.report import Report, refuse_to_replace
from datasets.verify import Finding


def open_splits(
    report: Report, opener: Callable, root: str, names: Iterable[str], *, required: bool = True
) -> dict:
    """Open the splits that can be, name -> dataset; those that cannot become findings.

    If `required` and there is none at all, the root is probably the wrong one: that is a problem.
    """
    found, reasons = {}, {}
    for name in names:
        try:
            found[name] = opener(root, name)
        except DataError as error:
            reasons[name] = str(error)
    if required and not found:
        name, reason = next(iter(reasons.items()))
        hint = _better_root(opener, root, list(reasons))
        report.add([Finding("problem", "lists", f"{name}: {reason}{hint}")])
        return {}
    for name, reason in reasons.items():
        # a list that is there but cannot be read is wrong; a split with no files may be unwanted
        listed = name.endswith((".txt", ".csv")) or splits.find_list(root, name) is not None
        level = "problem" if listed else "warning"
        report.add([Finding(level, "lists", f"{name} is not available: {reason}")])
    return found


def _better_root(opener: Callable, root: str, names: list[str]) -> str:
    """A folder beside `root` in which the layout is recognised, as a hint."""
    below = sorted(path for path in Path(root).iterdir() if path.is_dir())
    for place in [*below[:100], Path(root).parent]:
        if opens(opener, place, names):
            return f". {place} looks right: pass --root {place}"
    return ""


def opens(opener: Callable, root: str | Path, names: Iterable[str]) -> bool:
    """Whether one of the splits can be opened under `root`."""
    for name in names:
        try:
            opener(root, name)
        except DataError:
            continue
        return True
    return False


def first_files(found: dict) -> str:
    """Where the first files of the splits lie, which is what tells one layout from another."""
    dataset = next(iter(found.values()))
    paths = dataset.paths(0).items()
    return ", ".join(f"{role} {path}" for role, path in paths)


def list_paths(args: Namespace, names: Iterable[str], made: Iterable[str]) -> list[Path]:
    """The lists `names`: each a path, a path below the root, or the name of a split.

    Raises DataError if there is none, or if it lies where one of the lists `made` would go.
    """
    paths = []
    for name in names:
        by_name = None if name.endswith((".txt", ".csv")) else splits.find_list(args.root, name)
        places = (Path(name), Path(args.root, name), by_name)
        path = next((place for place in places if place and place.is_file()), None)
        if path is None:
            raise DataError(f"no list {name}: no such file, nor below {args.root} or its splits/")
        if path.resolve() in {(args.out / f"{split}.txt").resolve() for split in made}:
            raise DataError(
                f"{path} would be replaced by what is made from it; choose another --out"
            )
        paths.append(path)
    return paths


def listed_in(root: str | Path, names: Iterable[str]) -> dict[str, Path]:
    """The list files that the splits of these names are read from, where there are any."""
    paths = {name: splits.find_list(root, name) for name in names}
    return {name: path for name, path in paths.items() if path}


def enter(
    args: Namespace,
    report: Report,
    found: dict,
    words: dict[str, str],
    listed: dict[str, Path],
    *,
    row: Callable = rules.row_of_id,
    seed: int | None = None,
) -> dict[str, str]:
    """Enter the splits into the manifest; returns the text of the lists that are to be written.

    Raises DataError if one of them would replace a list of other content without --force.
    """
    texts = {}
    for name, dataset in found.items():
        ids, path = dataset.frame_ids, listed.get(name)
        rule = f"as listed in {path}" if path else words[name]
        report.enter(name, ids, rule, seed=seed, known=known_title(ids))
        # a list that lies where we would write stays as its owner formatted it
        if path is None or path.resolve() != (args.out / f"{name}.txt").resolve():
            texts[name] = "".join(f"{row(dataset, index)}\n" for index in range(len(dataset)))
    if not args.force:
        refuse_to_replace(args.out, texts)
    return texts
