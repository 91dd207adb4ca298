"""Checkpoints that are either whole or not there, and that load without running anybody's code.

`utils.whole_files` writes them. Only plain values and tensors go in, so that
`torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import contextlib
import functools
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import faults
from .run_folder import versions
from .saved_tensors import misfits, num_bytes
from .whole_files import (  # noqa: F401 (file_sha256 and sweep are for those who use checkpoints)
    file_sha256,
    is_as_noted,
    put,
    put_same,
    remove,
    sweep,
)

FORMAT_VERSION = 1
KEYS = [
    "format_version", "step", "config", "network", "step_module", "optimizer", "scaler", "best",
    "wandb_id", "versions", "progress",
]  # fmt: skip
SPARE = 1.1  # free space that is asked for, in sizes of the tensors
MISFIT = "the checkpoint to resume does not fit this configuration; another run.name starts afresh"


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind. Names the file and the remedy."""


class CheckpointNotWritten(CheckpointError):
    """A checkpoint that could not be written; the older ones are still there."""


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Within, trouble with writing is a CheckpointNotWritten that names `path`."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's writer turns the former into the latter
        cause = error.__context__ if isinstance(error.__context__, OSError) else error
        told = str(cause).split("\n", maxsplit=1)[0]
        raise CheckpointNotWritten(
            f"{path}: could not be written ({told}); is the disk full? Older checkpoints are still "
            "there; free some space, or lower save.keep_last"
        ) from error


def save_checkpoint(folder: Path, state: dict[str, Any], *, keep_last: int, best: bool) -> Path:
    """Write `state` as step_XXXXXX.pt; point last.pt (and best.pt) at it; prune older step files.

    Args:
        folder: the run's checkpoints folder.
        state: exactly the keys of `KEYS`.
        keep_last: newest step files to keep, by number; the one just written stays in any case.
        best: whether this is the best by validation.

    Returns:
        The step file.

    Raises:
        CheckpointNotWritten: too little free space, or the file system refuses. Nothing half
            written stays, and older checkpoints do. (If only last.pt or best.pt could not be
            written, the step file is there.)
    """
    if set(state) != set(KEYS):
        raise CheckpointError(f"a checkpoint holds exactly {KEYS}, got {sorted(state)}")
    step = state["step"]
    path = folder / f"step_{step:06d}.pt"
    at = functools.partial(faults.reached, step=step)
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        _check_space(path, state)
        put(path, lambda file: torch.save(state, file), at=at)
    at("before_last")
    for name in ["last.pt"] + ["best.pt"] * best:
        with writing(folder / name):
            put_same(folder / name, path)
    for old in step_files(folder)[keep_last:]:
        if old != path:
            remove(old)
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after comparing it with its sha256 (where there is one).

    "progress" is None where an earlier version wrote it.

    Raises:
        CheckpointError: missing, damaged, of another format version, or not a checkpoint of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    try:
        intact = is_as_noted(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not intact:
        raise CheckpointError(f"{path}: does not match its sha256: truncated or altered")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever damaged bytes lead it to
        told = f"{type(error).__name__}: {error}".splitlines()[0]  # torch's own fills a screen
        raise CheckpointError(f"{path}: cannot be read safely ({told})") from error
    if isinstance(state, dict):
        state.setdefault("progress", None)
    if not isinstance(state, dict) or set(state) != set(KEYS):
        raise CheckpointError(f"{path}: not a checkpoint of this project")
    if state["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: format {state['format_version']}, this version reads {FORMAT_VERSION}"
        )
    return state


def find_resume(folder: Path, resume: str) -> dict[str, Any] | None:
    """The state to go on from, or None for a fresh start.

    Args:
        folder: the run's checkpoints folder.
        resume: "auto" (newest readable one if there is any), "must" (an error if there is none),
            "never" (an error if there is one: nothing is overwritten), or a path.

    Raises:
        CheckpointError: as said above, or checkpoints exist and none of them is readable.
    """
    files = step_files(folder)
    if resume not in ("auto", "must", "never"):
        path = Path(resume)
        return load_checkpoint(path / "checkpoints" / "last.pt" if path.is_dir() else path)
    if resume == "never":
        if files:
            raise CheckpointError(
                f"resume=never, but {folder} has {files[0].name}; choose another "
                "run.name, or delete the run folder"
            )
        return None
    damage = []
    for file in files:
        try:
            return load_checkpoint(file)
        except CheckpointError as error:
            damage.append(str(error))
            print(f"checkpoint skipped: {error}", flush=True)
    if damage:
        raise CheckpointError(f"no readable checkpoint in {folder}: {'; '.join(damage)}")
    if resume == "must":
        raise CheckpointError(f"resume=must, but there is no checkpoint in {folder}")
    return None


def checkpoint_state(
    step: int,
    *,
    config: dict[str, Any],
    best: dict[str, float] | None,
    averaged: Any,
    step_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
    wandb_id: str | None,
    progress: Mapping[str, Any],
) -> dict[str, Any]:
    """What a checkpoint after `step` finished steps holds; `restore` puts it back.

    Args:
        config: resolved configuration, plain values.
        averaged: the `WeightAverage` whose network is the one to deploy.
        progress: what the session counts, plain values.
    """
    return {
        "format_version": FORMAT_VERSION,
        "step": step,
        "config": config,
        "network": averaged.network.state_dict(),
        "step_module": step_module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        "best": best,
        "wandb_id": wandb_id,
        "versions": versions(),
        "progress": dict(progress),
    }


def restore(
    state: dict[str, Any] | None,
    *,
    step_module: nn.Module,
    averaged: Any,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> tuple[int, dict[str, float] | None]:
    """Put a checkpoint's state back into what trains.

    Args:
        state: of `find_resume`; None leaves everything as it is.
        averaged: the `WeightAverage` of the network.

    Returns:
        The step to go on with, and the best validation so far.

    Raises:
        CheckpointError: it is of another architecture or optimiser; names the first that differs.
    """
    if state is None:
        return 0, None
    for key, module in {"network": averaged.network, "step_module": step_module}.items():
        if told := misfits(state[key], module.state_dict()):
            raise CheckpointError(f"{MISFIT}: {told}")
    try:
        averaged.network.load_state_dict(state["network"])
        averaged.resume(state["step"])
        step_module.load_state_dict(state["step_module"])
        optimizer.load_state_dict(state["optimizer"])
        scaler.load_state_dict(state["scaler"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"{MISFIT}: {error}") from error
    return state["step"], state["best"]


def step_files(folder: Path) -> list[Path]:
    """The step files, newest first: by number, as step_1000000 comes before step_999999 in text."""
    numbers = {}
    for file in folder.glob("step_*.pt"):
        if match := re.fullmatch(r"step_(\d+)\.pt", file.name):
            numbers[file] = int(match[1])
    return sorted(numbers, key=numbers.__getitem__, reverse=True)


def _check_space(path: Path, state: dict[str, Any]) -> None:
    needed, free = SPARE * num_bytes(state), shutil.disk_usage(path.parent).free
    if free < needed:
        raise OSError(f"{needed / 2**20:.1f} MiB are needed, {free / 2**20:.1f} MiB are free")
