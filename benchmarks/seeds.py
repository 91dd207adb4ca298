"""Mean and spread over seeds of finished runs, method beside method.

python benchmarks/seeds.py --runs baseline=runs/baseline_50_s* ours=runs/ours_50_s* --json out.json

Reads the `val` lines of each run's metrics.jsonl: the best checkpoint (lowest AbsRel) and the last.
"""

from __future__ import annotations

import argparse
import glob
import json
import statistics
from pathlib import Path

METRICS = ("abs_rel", "rmse", "d1")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=PATTERN")
    parser.add_argument("--json", type=Path, help="also write the numbers of every run here")
    args = parser.parse_args()
    table = {name: scores_of(pattern) for name, pattern in (r.split("=", 1) for r in args.runs)}
    print(f"{'':<24}{'seeds':>6}  " + "".join(f"{m:>18}" for m in METRICS))
    for name, runs in table.items():
        for which in ("best", "last"):
            cells = "".join(f"{spread([run[which][m] for run in runs]):>18}" for m in METRICS)
            print(f"{name + ', ' + which:<24}{len(runs):>6}  {cells}")
    if args.json:
        args.json.write_text(json.dumps(table, indent=2) + "\n")


def scores_of(pattern: str) -> list[dict]:
    """Best and last validation of every run folder that `pattern` names, sorted by name."""
    folders = sorted(Path(folder) for folder in glob.glob(pattern))
    if not folders:
        raise SystemExit(f"no run folder matches {pattern}")
    runs = []
    for folder in folders:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        validations = [line for line in lines if line["split"] == "val"]
        chosen = {
            "best": min(validations, key=lambda line: line["abs_rel"]),
            "last": validations[-1],
        }
        environment = json.loads((folder / "environment.json").read_text())
        runs.append(
            {
                "run": folder.name,
                **{k: {m: v[m] for m in ("step", *METRICS)} for k, v in chosen.items()},
                **{key: environment[key] for key in ("torch", "device", "git_commit")},
            }
        )
    return runs


def spread(values: list[float]) -> str:
    """Mean and sample standard deviation; the mean alone of a single run."""
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


if __name__ == "__main__":
    main()
