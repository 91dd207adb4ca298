"""What a killed writer of checkpoints did not come to do is done when its run goes on. Ours.

The step file comes first; without this, best.pt would stay that of an earlier step for good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .checkpoint import CheckpointError, load_checkpoint, writing
from .whole_files import put_same


def catch_up(folder: Path, state: dict[str, Any]) -> list[Path]:
    """Point last.pt (and best.pt, if it is the best) at the step file of `state`, and say so.

    Only one that is missing, damaged or of an earlier step is replaced. For the main process, once
    it holds the run's lock.

    Args:
        folder: the run's checkpoints folder.
        state: of `find_resume`; one that came from another folder changes nothing.

    Returns:
        What was replaced.

    Raises:
        CheckpointNotWritten: the file system refuses.
    """
    source = folder / f"step_{state['step']:06d}.pt"
    if not source.is_file():
        return []
    is_best = state["best"] is not None and state["best"]["step"] == state["step"]
    replaced = []
    for file in [folder / "last.pt", *[folder / "best.pt"] * is_best]:
        if (file.is_file() and file.samefile(source)) or _step(file) >= state["step"]:
            continue
        with writing(file):
            put_same(file, source)
        print(f"{file} was missing, damaged or older: now that of step {state['step']}", flush=True)
        replaced.append(file)
    return replaced


def _step(file: Path) -> int:
    """Finished steps of a checkpoint; -1 if it cannot be read."""
    try:
        return load_checkpoint(file)["step"]
    except CheckpointError:
        return -1
