"""`--plan`: what a configuration costs on 1, 2, 4 ... GPUs, and how each keeps the same step.

A step is `train.accumulation` passes on each process, each of labeled.batch_size +
unlabeled.batch_size images. A plan shares the images of a step out anew and changes neither their
number nor their ratio, so learning rates, schedule and number of steps stay as they are.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from math import gcd
from typing import NamedTuple

import torch
from dotmap import DotMap
from torch import nn

from step_memory import GIB, Images, PassMemory, pass_memory
from utils.config import ConfigError
from utils.optimization import resolve_precision

PROCESSES = (1, 2, 4, 8, 16)
USABLE = 0.9  # of a GPU: its driver, NCCL, workspaces of kernels and fragmentation want the rest
CHECKPOINTING = "train.activation_checkpointing=true"
LIGHT = "network.uncertainty_decoder=light"
SHARED_OUT = ("labeled.batch_size=", "unlabeled.batch_size=", "train.accumulation=")


class Share(NamedTuple):
    """What one process does in a step: `passes` over `images` each, with `peak` bytes."""

    images: Images
    passes: int
    peak: float


class Shares:
    """The ways to take the images of a step in passes that keep their ratio.

    Two passes are measured, the smallest and the whole step in one; the others are taken from the
    line in between. What is alive at a moment grows linearly with the images (but that groups fill
    whole tiles), and the peak is that of the worst moment, so the line is hardly below it.

    Attributes:
        number: of the smallest shares in a step; what divides it can share the step out.
        smallest: the fewest images of this ratio.
        held: bytes that a process holds between passes.
    """

    def __init__(self, step: Images, measure: Callable[[Images], PassMemory]):
        self.number = gcd(*step)
        self.smallest = Images(*(count // self.number for count in step))
        self.held, self._first = measure(self.smallest)
        self._last = measure(step).peak if self.number > 1 else self._first

    def peak(self, number: int) -> float:
        """Bytes of a pass over `number` of the smallest shares."""
        grown = (number - 1) / max(1, self.number - 1)
        return self._first + grown * (self._last - self._first)

    def largest(self, processes: int, limit: float) -> Share | None:
        """With the fewest passes below `limit` bytes; None if none is. `processes` must divide."""
        each = self.number // processes
        for passes in _divisors(each):
            peak = self.peak(each // passes)
            if peak <= limit:
                return Share(self.smallest.times(each // passes), passes, peak)
        return None


def print_plan(
    cfg: DotMap,
    *,
    script: str,
    words: Sequence[str],
    build_step: Callable[..., nn.Module],
    masked: bool,
    memory_gib: float | None,
) -> None:
    """Print a line for each number of processes, and the command that runs it.

    The step that is shared out is that of `cfg` on one process. Opens no dataset.

    Args:
        script: file name, for the commands.
        words: of the command line that `cfg` came from, without the flags of this plan.
        build_step, masked: see `pass_memory`.
        memory_gib: of one GPU; None takes the one that is there, and without one there is no limit.

    Raises:
        ConfigError: memory that is not above 0.
        NetworkError: a network that cannot be built.
    """
    memory = _memory(cfg, memory_gib)
    limit = float("inf") if memory is None else USABLE * memory
    step, precision = step_images(cfg, masked=masked), planned_precision(cfg)
    measure = partial(pass_memory, cfg, build_step=build_step, masked=masked, precision=precision)
    recomputes = cfg.train.activation_checkpointing
    sparing = Shares(step, partial(measure, checkpointing=True))
    shares = sparing if recomputes else Shares(step, partial(measure, checkpointing=False))
    print(f"{script}: {step} images a step ({_kinds(step)}), {cfg.train.num_steps:,} steps, "
          f"{precision}, {CHECKPOINTING.replace('true', str(recomputes).lower())}")  # fmt: skip
    print(f"a process holds {_gib(shares.held)} GiB (weights, gradients, Adam's moments"
          f"{', average of the weights' * (cfg.train.ema_decay > 0)}); "
          f"{_limit_in_words(memory)}\n")  # fmt: skip
    print("\n".join(_table(cfg, shares, sparing, limit)))
    if shares.peak(1) > limit:
        print("\n".join(_remedies(cfg, measure, shares, limit)))
    print()
    for processes in _even(shares.number):
        if command := _command(script, words, processes, shares, sparing, limit):
            print(command)
    print("\nGiB: what tensors take at the peak of a pass on one process, counted on shapes alone. "
          "Not in it: CUDA itself, what kernels and NCCL\ntake for their own use, gaps between "
          "blocks, batches that wait. train.compile is taken for false.")  # fmt: skip


def step_images(cfg: DotMap, *, masked: bool) -> Images:
    """Images of a step of `cfg` on one process; unlabelled ones where its losses ask for any."""
    takes_plain = masked or cfg.loss_weights.photometric > 0
    plain = cfg.unlabeled.batch_size if takes_plain else 0
    return Images(cfg.labeled.batch_size, plain).times(cfg.train.accumulation)


def planned_precision(cfg: DotMap) -> str:
    """fp32, bf16 or fp16. "auto" is that of the GPU here; without one, bf16, as most have it."""
    if cfg.run.device != "cpu" and not torch.cuda.is_available():
        return "bf16" if cfg.train.precision == "auto" else cfg.train.precision
    device = "cpu" if cfg.run.device == "cpu" else "cuda"
    return resolve_precision(cfg.train.precision, torch.device(device))


def _memory(cfg: DotMap, memory_gib: float | None) -> float | None:
    """Bytes of one GPU; None where there is no limit."""
    if memory_gib is not None:
        if not memory_gib > 0:
            raise ConfigError(f"--memory {memory_gib:g}: GiB of one GPU, above 0")
        return memory_gib * GIB
    if cfg.run.device == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_properties(0).total_memory


def _table(cfg: DotMap, shares: Shares, sparing: Shares, limit: float) -> Iterator[str]:
    own = shares is sparing
    yield (f"{'processes':>9} {'a pass':>10} {'passes':>7} {'a step':>7} {'steps':>8} {'GiB':>6}"
           f"{'' if own else '   with ' + CHECKPOINTING}")  # fmt: skip
    for processes in _even(shares.number):
        line, share = f"{processes:>9}", shares.largest(processes, limit)
        if share is None:
            line += f" {'does not fit: ' + _smallest(shares):>42}"
        else:
            images = sum(share.images) * share.passes * processes
            line += (f" {share.images!s:>10} {share.passes:>7} {images:>7} "
                     f"{cfg.train.num_steps:>8,} {_gib(share.peak):>6}")  # fmt: skip
        other = sparing.largest(processes, limit)
        if not own:
            line += "   does not fit either" if other is None else (
                f"   {other.passes} x ({other.images}), {_gib(other.peak)} GiB"
            )  # fmt: skip
        yield line
    uneven = [str(p) for p in PROCESSES if shares.number % p]
    if uneven:
        step, even = shares.smallest.times(shares.number), list(_divisors(shares.number))
        yield (f"{', '.join(uneven)} processes: {step} images cannot be shared out evenly in this "
               f"ratio; {', '.join(map(str, even))} can")  # fmt: skip


def _remedies(
    cfg: DotMap, measure: Callable[..., PassMemory], shares: Shares, limit: float
) -> Iterator[str]:
    """What the smallest pass takes with less to keep, measured, and what else there is."""
    yield f"{_smallest(shares)}, and are the fewest of this ratio. With"
    ways = {CHECKPOINTING: {"checkpointing": True}}
    if cfg.network.uncertainty and cfg.network.uncertainty_decoder == "full":
        light = {"uncertainty_decoder": "light"}
        ways[LIGHT] = {"checkpointing": cfg.train.activation_checkpointing, **light}
        ways[f"{CHECKPOINTING} {LIGHT}"] = {"checkpointing": True, **light}
    for words, settings in ways.items():
        peak = measure(shares.smallest, **settings).peak
        yield f"  {words}: {_gib(peak)} GiB, {'fits' if peak <= limit else 'does not fit'}"
    yield ("  Less still: smaller network.image_size or unlabeled.image_size, another ratio of "
           "images, network.decoder_channels, network.encoder")  # fmt: skip


def _command(
    script: str, words: Sequence[str], processes: int, shares: Shares, sparing: Shares, limit: float
) -> str | None:
    """The line for a shell; with recomputation only where nothing else fits."""
    share, extra = shares.largest(processes, limit), []
    if share is None:
        share, extra = sparing.largest(processes, limit), [CHECKPOINTING]
    if share is None:
        return None
    start = ["python"] if processes == 1 else [
        "torchrun", "--standalone", "--nproc-per-node", str(processes)
    ]  # fmt: skip
    kept = [word for word in words if not word.startswith(SHARED_OUT)]
    sizes = [f"{SHARED_OUT[0]}{share.images.labeled}"]
    if share.images.unlabeled:
        sizes.append(f"{SHARED_OUT[1]}{share.images.unlabeled}")
    return shlex.join([*start, script, *kept, *sizes, f"{SHARED_OUT[2]}{share.passes}", *extra])


def _even(number: int) -> list[int]:
    return [processes for processes in PROCESSES if number % processes == 0]


def _divisors(number: int) -> Iterator[int]:
    return (divisor for divisor in range(1, number + 1) if number % divisor == 0)


def _kinds(images: Images) -> str:
    return "labelled + unlabelled" if images.unlabeled else "labelled"


def _smallest(shares: Shares) -> str:
    return f"{shares.smallest} images take {_gib(shares.peak(1))} GiB"


def _limit_in_words(memory: float | None) -> str:
    if memory is None:
        return "no limit (no GPU is used here, and no --memory given)"
    return f"{USABLE:.0%} of the {_gib(memory)} GiB of a GPU may be filled"


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"
