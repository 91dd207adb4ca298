"""One process or many: the same code path. `torchrun` sets the environment, nothing else launches.

With several processes each takes its share of every batch; one process is the share of one.
"""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed, nn

from .memory import keep_freed_memory

NCCL_EXTRA_SECONDS = 60  # `agreement` notices a missing process before the GPUs give up


class DeviceError(ValueError):
    """A device that was asked for and is not there."""


class DisagreementError(ValueError):
    """Processes that should train on the same frames do not."""


class ProcessLost(RuntimeError):
    """Another process of this run died or no longer answers. Says which, where and since when."""


@dataclass(frozen=True)
class Process:
    """This process among `world_size`; `rank` 0 writes files and speaks.

    `store` is where processes leave words for each other, None where there is only one; `timeout_s`
    is how long they wait for each other.
    """

    rank: int
    world_size: int
    device: torch.device
    store: distributed.Store | None = None
    timeout_s: float = 600.0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def start_process(device: str, *, timeout_s: float = 600.0) -> Process:
    """Join the group that torchrun describes, if any, and choose this process's device.

    Args:
        device: "auto" (a GPU if there is one), "cpu" or "cuda".
        timeout_s: seconds that processes wait for each other before they give up.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "cuda was asked for, but PyTorch sees no CUDA device. Driver too old for this build, "
            "no GPU, or a CPU build; 'auto' instead of 'cuda' takes the CPU then"
        )
    use_cuda = device == "cuda" or (device == "auto" and torch.cuda.is_available())
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if use_cuda and local_rank >= torch.cuda.device_count():
        raise DeviceError(
            f"process {local_rank} of this machine has no GPU: there are "
            f"{torch.cuda.device_count()}. Start as many processes as GPUs (--nproc-per-node)"
        )
    chosen = torch.device("cuda", local_rank) if use_cuda else torch.device("cpu")
    if use_cuda:
        torch.cuda.set_device(chosen)
    else:
        keep_freed_memory()
    if "WORLD_SIZE" not in os.environ:
        return Process(rank=0, world_size=1, device=chosen)
    if not distributed.is_initialized():
        _join_group(use_cuda=use_cuda, timeout_s=timeout_s)
    return Process(
        distributed.get_rank(), distributed.get_world_size(), chosen, _stores[0], timeout_s
    )


_stores: list[distributed.Store] = []  # that of the group, which torch itself does not hand out


def _join_group(*, use_cuda: bool, timeout_s: float) -> None:
    store, rank, world_size = next(distributed.rendezvous("env://"))
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        store = _of_this_start(store, rank, world_size, timeout_s)
    _stores[:] = [store]
    extra_s = NCCL_EXTRA_SECONDS if use_cuda else 0
    distributed.init_process_group(
        "nccl" if use_cuda else "gloo", store=store, rank=rank, world_size=world_size,
        timeout=timedelta(seconds=timeout_s + extra_s),
    )  # fmt: skip


def _of_this_start(
    store: distributed.Store, rank: int, world_size: int, timeout_s: float
) -> distributed.Store:
    """`store` under a key of its own for these processes, as they were started this time.

    torchrun keeps its store when it starts processes again (pytorch issue 135712): who reads there
    where a dead one could be reached waits for it in vain. Its count of restarts is no such key, as
    every machine counts for itself. So rank 0 thinks of one and hands it to each process that shows
    a word which only a process of now can know.
    """
    word, end = os.urandom(8).hex(), time.monotonic() + timeout_s
    unknown = set(range(1, world_size)) if rank == 0 else set()
    key = word if rank == 0 else ""
    if rank:
        store.set(f"hello/{rank}", word)
    while unknown or not key:
        if time.monotonic() > end:
            raise ProcessLost(
                f"rank {rank} waited {timeout_s:g} s for {sorted(unknown) or 'rank 0'} to start"
            )
        for other in tuple(unknown):
            if store.check([f"hello/{other}"]):
                store.set(f"welcome/{other}", f"{store.get(f'hello/{other}').decode()} {word}")
            if store.check([f"joined/{other}"]) and store.get(f"joined/{other}").decode() == word:
                unknown.remove(other)
        if rank and store.check([f"welcome/{rank}"]):
            hello, given = store.get(f"welcome/{rank}").decode().split()
            key = given if hello == word else ""
        time.sleep(0.02)
    if rank:
        store.set(f"joined/{rank}", key)
    return distributed.PrefixStore(key, store)


def stop_process() -> None:
    """Leave the group, if there is one. Whatever `distribute` returned must be out of scope.

    It holds the group too. Were it the last to do so, the group would end within its destructor,
    which keeps the interpreter locked while gloo's threads want that lock to drop their last work:
    three of four runs with two processes never ended.
    """
    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.destroy_process_group()


def distribute(module: nn.Module, process: Process) -> nn.Module:
    """`module` with gradients averaged over processes; itself where there is only one."""
    if process.world_size == 1:
        return module
    # without device_ids: batches are on the device already, and what is not shall stay on the host
    return nn.parallel.DistributedDataParallel(module, gradient_as_bucket_view=True)


def check_same_everywhere(value: str, what: str, process: Process) -> None:
    """Raise DisagreementError unless all processes hold the same `value`.

    Each reads its own disk: a rank with another list would train on other labels, unnoticed.
    """
    if process.world_size == 1:
        return
    values: list[str] = [""] * process.world_size
    distributed.all_gather_object(values, value)
    if len(set(values)) > 1:
        held = ", ".join(f"rank {rank}: {held}" for rank, held in enumerate(values))
        raise DisagreementError(f"the processes do not hold the same {what}: {held}")


def average(values: dict[str, Tensor], process: Process) -> dict[str, float]:
    """Scalars as floats, averaged over processes. Every process must call it with the same keys."""
    stacked = torch.stack([value.detach().float() for value in values.values()])
    if process.world_size > 1:
        distributed.all_reduce(stacked)
        stacked /= process.world_size
    return dict(zip(values, stacked.tolist(), strict=True))


def summed(count: int, process: Process) -> int:
    """A count summed over processes; every process must call it."""
    if process.world_size == 1:
        return count
    value = torch.tensor(count, dtype=torch.long, device=process.device)
    distributed.all_reduce(value)
    return int(value)


def mean_count(count: Tensor, process: Process, *, num_passes: int) -> Tensor:
    """A count, summed over the passes of a step, as the mean over the passes of all processes.

    Above zero: the sum over all is taken to be at least 1. Nothing waits for the device.
    """
    value = count.float()
    if process.world_size > 1:
        distributed.all_reduce(value)
    return value.clamp(min=1) / (num_passes * process.world_size)
