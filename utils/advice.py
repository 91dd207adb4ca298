"""What went wrong where it is neither the user's input nor our code, and what to do. Ours."""

from __future__ import annotations

import torch

from .processes import ProcessLost

WORKER = "a loader process"
KILLED = (
    f"{WORKER} was killed ({{told}}). By whom only the system knows; as a rule it had no memory "
    "left (see dmesg): try a smaller train.num_workers, or ask for more memory"
)
BUS_ERROR = (
    f"{WORKER} found no room in shared memory ({{told}}): enlarge /dev/shm (docker run "
    "--shm-size=8g or --ipc=host), or try a smaller train.num_workers or batch_size"
)
SILENT = (
    f"{WORKER} gave no batch for train.worker_timeout_s ({{told}}). Above is where each stood. "
    "Slow or dead storage? A larger worker_timeout_s waits longer"
)
NO_MEMORY = (
    "out of memory ({told}). What helps: train.activation_checkpointing=true; smaller batch sizes "
    "with a larger train.accumulation, which keeps the batch of a step; train.precision=bf16; "
    "network.uncertainty_decoder=light. --plan says what fits"
)


def advice(error: BaseException) -> str | None:
    """A message that says what to do about `error`; None if it is for whoever wrote the code."""
    if isinstance(error, ProcessLost):
        return str(error)
    told = str(error).strip().split("\n", maxsplit=1)[0]
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in told:
        return NO_MEMORY.format(told=told)
    words = None
    if isinstance(error, RuntimeError | OSError):
        if "Bus error" in told or "shared memory" in told or "shm" in told:
            words = BUS_ERROR
        elif "DataLoader worker" in told:
            words = KILLED
        elif is_silent_worker(error):
            words = SILENT
    return words and words.format(told=told)


def is_silent_worker(error: BaseException) -> bool:
    """Whether a loader process gave no batch in time."""
    return isinstance(error, RuntimeError) and "DataLoader timed out" in str(error)
