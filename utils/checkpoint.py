"""Checkpoints that are either whole or not there, and that load without running anybody's code.

A file is written beside its place, flushed to the disk, renamed, and followed by its sha256; only
plain values and tensors go in, so that `torch.load(weights_only=True)` reads them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .run_folder import versions

FORMAT_VERSION = 1
KEYS = [
    "format_version",
    "step",
    "config",
    "network",
    "step_module",
    "optimizer",
    "scaler",
    "best",
    "wandb_id",
    "versions",
]


class CheckpointError(ValueError):
    """A checkpoint that is missing, damaged or of another kind. Names the file and the remedy."""


def save_checkpoint(folder: Path, state: dict[str, Any], *, keep_last: int, best: bool) -> Path:
    """Write `state` as step_XXXXXX.pt; point last.pt (and best.pt) at it; prune older step files.

    Args:
        folder: the run's checkpoints folder.
        state: exactly the keys of `KEYS`.
        keep_last: newest step files to keep.
        best: whether this is the best by validation.

    Returns:
        The step file.
    """
    if sorted(state) != sorted(KEYS):
        raise CheckpointError(f"a checkpoint holds exactly {KEYS}, got {sorted(state)}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step_{state['step']:06d}.pt"
    _write(path, state)
    for name in ["last.pt"] + ["best.pt"] * best:
        _point(folder / name, path)
    for old in sorted(folder.glob("step_*.pt"))[:-keep_last]:
        for file in (old, _sidecar(old)):
            file.unlink(missing_ok=True)
    return path


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint after comparing it with its sha256 (where there is one).

    Raises:
        CheckpointError: missing, damaged, of another format version, or not a checkpoint of ours.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    sidecar = _sidecar(path)
    if sidecar.is_file() and sidecar.read_text().split()[:1] != [file_sha256(path)]:
        raise CheckpointError(f"{path}: does not match its sha256: truncated or altered")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever damaged bytes lead it to
        told = f"{type(error).__name__}: {error}".splitlines()[0]  # torch's own fills a screen
        raise CheckpointError(f"{path}: cannot be read safely ({told})") from error
    if not isinstance(state, dict) or sorted(state) != sorted(KEYS):
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
    files = sorted(folder.glob("step_*.pt"), reverse=True)
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
) -> dict[str, Any]:
    """What a checkpoint after `step` finished steps holds; `restore` puts it back.

    Args:
        config: resolved configuration, plain values.
        averaged: the `WeightAverage` whose network is the one to deploy.
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
    """
    if state is None:
        return 0, None
    try:
        averaged.network.load_state_dict(state["network"])
        averaged.resume(state["step"])
        step_module.load_state_dict(state["step_module"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"the checkpoint to resume does not fit this configuration; another run.name starts "
            f"afresh. {error}"
        ) from error
    scaler.load_state_dict(state["scaler"])
    return state["step"], state["best"]


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _write(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        digest = file_sha256(temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path}: could not be written ({error}); is the disk full?"
        ) from error
    _write_text(_sidecar(path), f"{digest}  {path.name}\n")
    _sync_folder(path.parent)


def _point(name: Path, target: Path) -> None:
    """Make `name` the same file as `target`, by hard link (no second copy on disk), atomically."""
    temporary = name.with_name(f"{name.name}.tmp.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    os.link(target, temporary)
    temporary.replace(name)
    _write_text(_sidecar(name), _sidecar(target).read_text())
    _sync_folder(name.parent)


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    with temporary.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _sidecar(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
