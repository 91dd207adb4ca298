"""What a run starts from: its folder, for it alone, and the checkpoint to go on from, if any."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dotmap import DotMap

from networks import DepthNetwork, build_network
from utils.catch_up import catch_up
from utils.checkpoint import CheckpointError, find_resume, step_files
from utils.processes import Process, check_same_everywhere
from utils.run_lock import RunLock, hold
from utils.seeding import seed_initialisation
from utils.whole_files import sweep

STREAMS = ("labeled", "unlabeled", "validation")
MAY_DIFFER = ("run.", "resume", "wandb.", "evaluation.num_panels")  # and nobody needs to be told


class Start(NamedTuple):
    """The network on its device, the checkpoint to go on from or None, and the folder's lock, which
    the main process holds."""

    network: DepthNetwork
    state: dict[str, Any] | None
    lock: RunLock | None


def start_network(cfg: DotMap, process: Process) -> Start:
    """Hold the run folder, find its newest good checkpoint, build the network.

    The checkpoint's weights are filled in later, with the rest of its state, by `Session`.

    Raises:
        RunFolderError: another run is in the folder, or it cannot be written.
        CheckpointError: `resume` asks for what is not there, nothing there is readable, or the run
            was made of other frames.
        DisagreementError: processes found different checkpoints.
    """
    folder = Path(cfg.run.folder) / cfg.run.name
    checkpoints = folder / "checkpoints"
    lock = hold(folder) if process.is_main else None
    try:
        if lock is not None:
            sweep(checkpoints)
        resume = _where_from(cfg, checkpoints, tell=process.is_main)
        state = find_resume(checkpoints, resume)
        check_same_everywhere(str(state and state["step"]), "checkpoint to go on from", process)
        if state is not None:
            if resume in ("auto", "must"):
                _insist_on_same_frames(state["config"], cfg)
            if lock is not None:
                catch_up(checkpoints, state)
                _tell_changes(state, cfg)
        seed_initialisation(cfg.run.seed)
        # a resumed run has its weights: it must not depend on a hub or a file any more
        settings = cfg.network.toDict() | ({"pretrained": "none"} if state else {})
        network = build_network(**settings).to(process.device)
    except BaseException:
        if lock is not None:
            lock.release()
        raise
    return Start(network, state, lock)


def _where_from(cfg: DotMap, checkpoints: Path, *, tell: bool) -> str:
    """`resume`; "auto" where it is a path and the run, started before, has come farther itself.

    So the same command goes on after a stop, also that of a run which began with the checkpoint of
    another. CheckpointError if the path is an older step of this very run, which has newer ones.
    """
    own = step_files(checkpoints)
    if cfg.resume in ("auto", "must", "never") or not own:
        return cfg.resume
    path = Path(cfg.resume).resolve()
    if not path.is_relative_to(checkpoints.parent.resolve()):
        if tell:
            print(f"{checkpoints} has checkpoints: the run goes on with its own", flush=True)
        return "auto"
    if path.is_file() and not any(path.samefile(newest) for newest in own[:1]):
        raise CheckpointError(
            f"resume={cfg.resume} is not the newest checkpoint of this run ({own[0].name}), which "
            "would be taken for its end later. Another run.name starts a branch from there"
        )
    return cfg.resume


def _insist_on_same_frames(before: Mapping[str, Any], cfg: DotMap) -> None:
    """A run that goes on with other frames is no longer the run that its folder says it is."""
    for name in STREAMS:
        old, new = before.get(name, {}).get("list_sha256"), cfg[name].list_sha256
        if None not in (old, new) and old != new:
            raise CheckpointError(
                f"this run has trained with other {name} frames (list_sha256 {old[:12]}…, now "
                f"{new[:12]}…). Bring its list back, or start another run.name with "
                f"resume={Path(cfg.run.folder) / cfg.run.name}"
            )


def _tell_changes(state: Mapping[str, Any], cfg: DotMap) -> None:
    old, new = dict(_flat(state["config"])), dict(_flat(cfg.toDict()))
    changes = [
        f"{key} {old[key]} -> {new[key]}"
        for key in sorted(old.keys() & new.keys())
        if old[key] != new[key] and not key.startswith(MAY_DIFFER)
    ]
    print(f"going on after step {state['step']}", flush=True)
    if changes:
        print(f"changed since the checkpoint: {', '.join(changes)}", flush=True)
    if state["progress"] is None:
        print(
            "the checkpoint is of an earlier version: its counts of skipped steps and replaced "
            "frames start at 0, and samples are counted by the batch sizes of now",
            flush=True,
        )


def _flat(section: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
