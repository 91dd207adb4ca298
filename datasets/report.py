"""What `datasets.prepare` found and wrote: shown as it goes, kept as JSON. Ours."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datasets.frame import DataError
from datasets.splits import list_sha256
from datasets.verify import Finding

MARKS = {"problem": "PROBLEM", "warning": "warning", "note": "ok"}
NUM_TABLE_LINES = 12  # shown of a table; the JSON report has all


@dataclass
class Report:
    """Findings of one run, and the split lists it describes.

    Attributes:
        command, root, layout: what was asked for, where, and what it was recognised as.
        settings: options that change what is found.
        lists: name -> {"n", "sha256", "rule", "seed", "known"}; this is the manifest.
        sources: where the files come from.
    """

    command: str
    root: str
    layout: str = ""
    settings: dict = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    lists: dict[str, dict] = field(default_factory=dict)
    statistics: dict[str, dict] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def recognised(self, layout: str) -> None:
        """Say which layout the root was recognised as."""
        self.layout = layout
        print(f"layout: {layout}")

    def add(self, findings: Iterable[Finding]) -> None:
        """Keep and show findings."""
        for finding in findings:
            self.findings.append(finding)
            print(f"{MARKS[finding.level]:>8}  {finding.check}: {finding.message}")
            for line in finding.table[:NUM_TABLE_LINES]:
                print(f"{'':>12}{line}")
            if len(finding.table) > NUM_TABLE_LINES:
                print(f"{'':>12}and {len(finding.table) - NUM_TABLE_LINES:,} more lines (--json)")

    def enter(
        self,
        name: str,
        frame_ids: Sequence[str],
        rule: str,
        *,
        seed: int | None = None,
        known: str = "",
    ) -> None:
        """Enter a split: its rule in words, and which public list it is, if any."""
        entry = {"n": len(frame_ids), "sha256": list_sha256(frame_ids), "rule": rule, "seed": seed}
        self.lists[name] = {**entry, "known": known or None}

    def show_sources(self, sources: Sequence[str]) -> None:
        """Say where the files come from; the command itself never downloads."""
        self.sources = tuple(sources)
        print("where the files come from (nothing is downloaded):")
        for line in sources:
            print(f"    {line}")

    def count(self, level: str) -> int:
        """Findings of one level; a problem makes the exit code 1."""
        return sum(finding.level == level for finding in self.findings)

    def as_dict(self) -> dict:
        """Plain values for JSON; equal runs on equal data give equal dicts."""
        return {
            "command": self.command,
            "root": self.root,
            "layout": self.layout,
            "settings": self.settings,
            "num_problems": self.count("problem"),
            "lists": self.lists,
            "statistics": self.statistics,
            "findings": [finding.as_dict() for finding in self.findings],
            "sources": list(self.sources),
        }


def refuse_to_replace(folder: Path, lists: dict[str, str]) -> None:
    """Raise DataError if `<folder>/<name>.txt` exists with other content: it is someone's split."""
    paths = {folder / f"{name}.txt": text for name, text in lists.items()}
    stale = [
        str(path)
        for path, text in paths.items()
        if path.is_file() and path.read_text(encoding="utf-8-sig").replace("\r", "") != text
    ]
    if stale:
        raise DataError(
            f"{', '.join(stale)} exists with other content and is kept; pass --force to replace "
            "it, or --out another folder"
        )


def write_lists(folder: Path, lists: dict[str, str]) -> None:
    """Write `<folder>/<name>.txt` for each name -> text."""
    for name, text in lists.items():
        write_text(folder / f"{name}.txt", text)


def check_writable(folder: Path) -> None:
    """Raise DataError if files cannot be written into `folder`, whether it exists or not."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise DataError(f"{folder} cannot be written; choose another folder with --out")


def keep_rules(lists: dict[str, dict], manifest: Path) -> dict[str, dict]:
    """`lists`, with the rules of an earlier manifest for those that have not changed since.

    A second run finds the lists of the first one and would only know that they were there.
    """
    try:
        earlier = json.loads(manifest.read_text(encoding="utf-8"))
        same = {
            name: old for name, old in earlier.items() if old["sha256"] == lists[name]["sha256"]
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return lists
    return {name: {**new, **same.get(name, {})} for name, new in lists.items()}


def write_json(path: Path, value: dict) -> None:
    """Write `value`, indented. Raises DataError if it cannot be written."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all. Raises DataError, naming --out, if it cannot be written."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        os.replace(part, path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}); choose another folder with --out"
        ) from error
