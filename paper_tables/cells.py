"""What a cell of a table is: two commands in a run folder, ended by its cell.json. Ours.

A cell trains, is scored, and is finished once cell.json stands in its folder. What is scored is
last.pt: to choose best.pt by validation frames would use labels beyond the budget.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dotmap import DotMap

from frames import official_list, open_frames
from paper_tables.rows import Cell, Table
from utils.config import ConfigError, load_config, parse_yaml, saved_config

HOUSE = Path(__file__).parent.parent
TRAINING, EVALUATION = "training", "evaluation"  # the stages of a cell; their logs are named so
OWN_WORDS = ("run.folder", "run.name", "run.seed", "labeled.num_frames", "resume")
LABELS = ("dataset", "root", "variant", "split", "list_sha256")
UNCOMPARED = ("run.folder", "labeled.list_sha256", "unlabeled.list_sha256",
              "validation.list_sha256")  # fmt: skip


class TableError(ValueError):
    """A table that cannot be made as asked for. Names the file or word, and the remedy."""


class Task(NamedTuple):
    """A cell and all that is needed to work on it.

    Attributes:
        folder: its run folder.
        words: key=value words of the training, but for the name and place of its run folder.
        config: the configuration that they give, plain values.
    """

    cell: Cell
    table: Table
    folder: Path
    words: tuple[str, ...]
    config: dict[str, Any]

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the training."""
        return self.config["train"]["num_steps"]

    def command(self, stage: str) -> list[str]:
        """Words after `python`, for the TRAINING or the EVALUATION (of all frames of the split)."""
        if stage == TRAINING:
            row = self.table.rows[self.cell.method]
            place = [f"run.folder={json.dumps(str(self.folder.parent), ensure_ascii=False)}",
                     f"run.name={self.cell.name}", "resume=auto"]  # fmt: skip
            return [str(HOUSE / row.script), "--conf", str(HOUSE / row.conf), *self.words, *place]
        last = self.folder / "checkpoints" / "last.pt"
        return [str(HOUSE / "evaluate.py"), "--ckpt", str(last), "--split", self.table.split,
                "validation.num_frames=null", "evaluation.num_panels=0"]  # fmt: skip


def open_tasks(
    table: Table, *, methods: Sequence[str], budgets: Sequence[int | None], seeds: int,
    out: Path, words: Sequence[str],
) -> list[Task]:  # fmt: skip
    """The cells seed by seed, so that a part of the table is one to read already.

    Args:
        seeds: how many, from 0.
        words: key=value words of the command line, for every training.

    Raises:
        ConfigError: a configuration that cannot be used.
        TableError: the methods take unequal steps, a word says what the table says, or validation
            frames have another name than those that are scored.
    """
    if own := [word for word in words if word.partition("=")[0] in OWN_WORDS]:
        raise TableError(f"{own[0]}: the table says that; see --seeds, --budgets and --out")
    configs = {
        method: load_config(HOUSE / table.rows[method].conf, words).toDict() for method in methods
    }
    for section, key in (("train", "num_steps"), ("labeled", "batch_size")):
        values = {method: config[section][key] for method, config in configs.items()}
        if len(set(values.values())) > 1:
            raise TableError(
                f"{section}.{key} is {values}, but methods compare at equal steps of equally many "
                f"labelled images; mend the files in conf/, or give {section}.{key}=... for all"
            )
    for config in configs.values():
        if table.split == "val" != config["validation"]["split"]:
            raise TableError(
                f"validation.split={config['validation']['split']}: this table scores the list "
                "called val under validation.root; give your list that name"
            )
    cells = [Cell(m, budget, seed) for seed in range(seeds) for budget in budgets for m in methods]
    return [
        Task(c, table, out / c.name, _words_of(words, c), _config_of(configs[c.method], c))
        for c in cells
    ]


def check_data(tasks: Iterable[Task]) -> None:
    """Open the labelled, validation and scored frames of all cells, each set once.

    What is missing is known before anything is trained, and synthetic frames are rendered once.
    Raises DataError if a file is missing or the scored list is not the public one.
    """
    everything = {"num_frames": None, "list_sha256": None}
    seen = []
    for task in tasks:
        labeled, validation = (task.config[key] | everything for key in ("labeled", "validation"))
        for section in (labeled, validation, validation | {"split": task.table.split}):
            if section not in seen:
                seen.append(section)
                stream = DotMap(section, _dynamic=False)
                official_list(stream, open_frames(stream, seed=0, budget=None))


def _config_of(config: Mapping[str, Any], cell: Cell) -> dict[str, Any]:
    """The configuration of a cell, from that of its row."""
    own = {"run": {"name": cell.name, "seed": cell.seed}, "labeled": {"num_frames": cell.budget}}
    return {key: value | own[key] if key in own else value for key, value in config.items()}


def _words_of(words: Iterable[str], cell: Cell) -> tuple[str, ...]:
    """`words` of the command line, and those that make the cell."""
    budget = "null" if cell.budget is None else cell.budget
    return (*words, f"run.seed={cell.seed}", f"labeled.num_frames={budget}")


def read_record(task: Task) -> dict[str, Any] | None:
    """cell.json of a finished cell; None if it is not finished. TableError if it is damaged."""
    path = task.folder / "cell.json"
    if not path.exists():
        return None
    try:
        record = json.loads(path.read_text())
        whole = record["cell"] == task.cell.name and record["labeled"] and record["scores"]
    except (OSError, ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise TableError(
            f"{path}: not what reproduce.py wrote of {task.cell.name}; delete the file, and the "
            "same command scores the cell again"
        )
    return record


def write_record(task: Task, seconds: Mapping[str, float]) -> None:
    """cell.json, from what the two commands left; `seconds` by stage."""
    config = parse_yaml((task.folder / "config.yaml").read_text(), place=str(task.folder))
    environment = json.loads((task.folder / "environment.json").read_text())
    scored = task.folder / "evaluation" / task.table.split / "metrics.json"
    summary = json.loads(scored.read_text())
    scores = next(iter(summary["protocols"].values()))
    row = task.table.rows[task.cell.method]
    write_json(task.folder / "cell.json", {
        "cell": task.cell.name,
        "script": row.script,
        "conf": row.conf,
        "words": list(task.words),
        "checkpoint_sha256": summary["sha256"],
        "labeled": {key: config["labeled"][key] for key in LABELS},
        "num_labels": len((task.folder / "splits" / "labeled.txt").read_text().splitlines()),
        "num_steps": task.num_steps,
        "seconds": seconds[TRAINING],
        "evaluation_seconds": seconds[EVALUATION],
        "scores": {name: scores[name] for name in (*task.table.metrics, "num_images")},
        "environment": {key: environment[key] for key in environment if key != "command"},
    })  # fmt: skip


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)


def check_unchanged(tasks: Iterable[Task]) -> None:
    """Raise TableError if a cell was begun with another configuration or script than now."""
    for task in tasks:
        if changes := changed_settings(task):
            raise TableError(
                f"{task.folder} was trained with other settings ({'; '.join(changes[:5])}). Give "
                "the words that it was trained with, choose another --out, or delete the folder"
            )


def changed_settings(task: Task) -> list[str]:
    """What a cell that was begun says otherwise, as "optimizer.lr: 0.001, now 0.002".

    Empty if nothing was saved yet. Raises TableError if its config.yaml is damaged or missing.
    """
    record = read_record(task)
    if record is None and not any((task.folder / "checkpoints").glob("step_*.pt")):
        return []
    path = task.folder / "config.yaml"
    try:
        saved = parse_yaml(path.read_text(), place=str(path))
        there = saved_config(saved or {}, place=str(path))
    except (OSError, ConfigError) as error:
        raise TableError(
            f"{path}: cannot be read ({error}), so nobody knows what was trained here; restore it, "
            f"or delete {task.folder}"
        ) from error
    settings = {
        f"{section}.{key}": (old, task.config[section][key])
        for section, values in there.toDict().items() if isinstance(values, dict)
        for key, old in values.items()
    }  # fmt: skip
    script = task.table.rows[task.cell.method].script
    settings["script"] = (record["script"] if record else script, script)
    return [
        f"{key}: {old!r}, now {new!r}"
        for key, (old, new) in settings.items() if old != new and key not in UNCOMPARED
    ]  # fmt: skip


def check_alike(tasks: Iterable[Task]) -> None:
    """Raise TableError unless the finished cells are of one table.

    They have been trained with the same words, and those of a budget and seed on the same labelled
    frames, where they take them from the same list.
    """
    words: dict[str, list[str]] = {}
    labels: dict[tuple, tuple[str, str]] = {}
    for task in tasks:
        if (record := read_record(task)) is None:
            continue
        name, said = task.cell.name, sorted(record["words"][:-2])  # the last two make the cell
        other, theirs = next(iter(words.items()), (name, said))
        if said != theirs:
            raise TableError(
                f"{task.folder.parent}: {name} was trained with {said}, {other} with {theirs}: no "
                "table of equal settings; delete one of the two"
            )
        words[name] = said
        *place, used = (record["labeled"][key] for key in LABELS)
        other, theirs = labels.setdefault((task.cell.budget, task.cell.seed, *place), (name, used))
        if used != theirs:
            raise TableError(
                f"{task.folder.parent}: {name} and {other} were trained on different labelled "
                "frames, so they do not compare; the list or the data have changed between the "
                "two. Delete those of the old data"
            )
