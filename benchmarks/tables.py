"""Tables of the README and of docs/scaling.md, from the JSON files in benchmarks/results/.

    python benchmarks/tables.py speed                            # Markdown to stdout
    python benchmarks/tables.py --into README.md docs/scaling.md   # fill the blocks in there

A block stands between `<!-- benchmarks/tables.py NAME -->` and `<!-- end -->`; its NAME is one of
speed, attention, ranks, readiness, communication. Every number is in a file, which the table names,
apart from `communication`, which is an estimate. A table without any file says what to run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks import communication, scaling
from benchmarks.interleaved import RESULTS

BLOCK = re.compile(r"(<!-- benchmarks/tables\.py (\w+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def results(folder: Path, benchmark: str) -> list[tuple[str, dict[str, Any]]]:
    """(file name, content) of every result of one benchmark, by name."""
    found = [(file.name, json.loads(file.read_text())) for file in sorted(folder.glob("*.json"))]
    return [
        (name, content)
        for name, content in found
        if isinstance(content, dict) and content.get("benchmark") == benchmark
    ]


def speed(folder: Path) -> str:
    """A line a variant of every step_time result."""
    lines = []
    for name, result in results(folder, "step_time"):
        setting = result["settings"]
        height, width = setting["image_size"]
        where = (
            f"{setting['encoder'].removesuffix('_384').removesuffix('_224')}, {height} × {width}, "
            + (
                f"{setting['labeled']} + {setting['unlabeled']}"
                if setting["unlabeled"]
                else f"{setting['labeled']}, supervised"
            )
        )
        for variant, row in result["variants"].items():
            lines.append(
                f"| {where} | {variant} | {_seconds(row['seconds']['median'])} | "
                f"{row['images_per_s']:.2f} | {_ratio(row['times_faster'])} | "
                f"{_percent(row['share_of_floor'])} | {_gib(row['peak_memory_gib'])} | "
                f"{result['environment']['device']} | `{name}` |"
            )
    if not lines:
        return _nothing(
            "python benchmarks/step_time.py --out benchmarks/results/step_time_NAME.json"
        )
    head = (
        "| encoder, image, labelled + unlabelled | variant | step | images/s "
        "| times faster (range) | of the floor | peak memory | device | file |\n"
        "|---|---|---:|---:|---:|---:|---:|---|---|"
    )
    return "\n".join([head, *lines])


def attention(folder: Path) -> str:
    """A line a K of every attention result: how many times faster each way is than the authors'."""
    lines, ways = [], ("dense", "sequences", "tiles", "flex", "varlen")
    for name, result in results(folder, "attention"):
        setting = result["settings"]
        for point in result["points"]:
            cells = " | ".join(
                f"{point['ways'][way]['times_faster_than_authors']['median']:.1f}"
                if way in point["ways"]
                else "–"
                for way in ways
            )
            theirs = point["ways"]["authors"]
            lines.append(
                f"| {setting['num_tokens']} | {setting['precision']} | {setting['rule']} | "
                f"{point['num_groups']} | {_seconds(theirs['seconds']['median'])} | {cells} | "
                f"{theirs['largest_error']['output']:.0e} | "
                f"{point['ways']['tiles']['largest_error']['output']:.0e} | `{name}` |"
            )
    if not lines:
        return _nothing(
            "python benchmarks/attention.py --out benchmarks/results/attention_NAME.json"
        )
    head = (
        f"| tokens | precision | sizes | K | authors | {' | '.join(f'{way} ×' for way in ways)} | "
        "error, authors | error, tiles | file |\n|---:|---|---|---:|" + "---:|" * 8 + "---|"
    )
    return "\n".join([head, *lines])


def ranks(folder: Path) -> str:
    """The table of processes of every scaling result that has one."""
    blocks = []
    for name, result in results(folder, "scaling"):
        if result["ranks"]:
            device = result["environment"]["device"]
            blocks.append(f"`{name}` ({device}):\n\n{scaling.ranks_markdown(result['ranks'])}")
    if not blocks:
        return _nothing(
            "python benchmarks/scaling.py --tables --ranks 1 2 --out "
            "benchmarks/results/scaling_ranks_NAME.json"
        )
    return "\n\n".join(blocks)


def readiness(folder: Path) -> str:
    """When gradients are ready, of every result of communication.py --measure."""
    lines = []
    for name, result in results(folder, "communication"):
        setting = result["settings"]
        for order, words in (("labeled_first", "first"), ("labeled_last", "last")):
            shares = " | ".join(
                _percent(result[order][f"ready_{percent}_percent"]) for percent in (10, 50, 90)
            )
            lines.append(
                f"| {setting['encoder']}, {setting['labeled']} + {setting['unlabeled']} | {words} "
                f"| {shares} | `{name}` |"
            )
    if not lines:
        return _nothing(
            "python benchmarks/communication.py --measure --out "
            "benchmarks/results/gradient_readiness_NAME.json"
        )
    head = (
        "| step | labelled images | 10 % of gradients ready after | 50 % | 90 % | file |\n"
        "|---|---|---:|---:|---:|---|"
    )
    return "\n".join([head, *lines])


def _nothing(command: str) -> str:
    return f"Not measured yet: `{command}`."


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.1f} ms"


def _ratio(values: dict[str, float]) -> str:
    return f"{values['median']:.2f} ({values['min']:.2f}–{values['max']:.2f})"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"


def _gib(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} GiB"


TABLES: dict[str, Callable[[Path], str]] = {
    "speed": speed,
    "attention": attention,
    "ranks": ranks,
    "readiness": readiness,
    "communication": lambda folder: communication.markdown(),
}


def filled(text: str, folder: Path) -> str:
    """`text` with every block of this script filled; KeyError for a block of an unknown name."""
    return BLOCK.sub(lambda match: f"{match[1]}{TABLES[match[2]](folder)}\n{match[3]}", text)


def main(arguments: Sequence[str] | None = None) -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("table", nargs="?", choices=TABLES)
    words.add_argument("--into", type=Path, nargs="+", default=[], metavar="FILE")
    words.add_argument("--results", type=Path, default=RESULTS)
    args = words.parse_args(arguments)
    if args.table:
        print(TABLES[args.table](args.results))
    elif not args.into:
        words.error("name a table, or files to fill with --into")
    for file in args.into:
        temporary = file.with_name(f".{file.name}.part")
        temporary.write_text(filled(file.read_text(), args.results))
        os.replace(temporary, file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
