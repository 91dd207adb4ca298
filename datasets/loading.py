"""From a dataset to batches: which frame comes when, and what happens to a frame that is broken."""

from __future__ import annotations

import faulthandler
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from .frame import DataError
from .order import SampleOrder, Shuffle
from .views import evaluation_image

# read by the script, not by the step: on a GPU each reading would wait for it
FOR_THE_HOST = ("sample_number", "replaced", "strong_operations", "strong_strengths")
MAX_REPLACED_SHARE = 0.001  # more broken frames than this is a broken dataset, not bad luck


class TrainingSamples(Dataset):
    """(sample number, frame index) -> batch entry; each sample draws from a generator of its own.

    To what the view gives it adds sample_number, which is unique in the run, and replaced (0 or 1).

    Args:
        frames: a dataset with `frame(index)` and `frame_ids`.
        view: (frame, generator=...) -> entry.
        generator_for: sample number -> generator of its augmentation.
        replacements: indices to draw a substitute from where a frame is broken; None = a broken
            frame is an error.
    """

    def __init__(
        self,
        frames: Any,
        *,
        view: Callable[..., dict],
        generator_for: Callable[[int], torch.Generator],
        replacements: Sequence[int] | None = None,
    ):
        self.frames = frames
        self.view = view
        self.generator_for = generator_for
        self.replacements = replacements
        self.broken: set[int] = set()

    def __getitem__(self, item: tuple[int, int]) -> dict:
        number, index = item
        generator = self.generator_for(number)
        try:
            entry = self.view(self.frames.frame(index), generator=generator)
            return {**entry, "sample_number": number, "replaced": 0}
        except DataError as error:
            if self.replacements is None:
                raise
            self._count_broken(index, error)
        return {**self._substitute(generator), "sample_number": number, "replaced": 1}

    def _count_broken(self, index: int, error: DataError) -> None:
        if index not in self.broken:
            print(f"broken frame replaced: {error}", flush=True)
        self.broken.add(index)
        allowed = max(1, MAX_REPLACED_SHARE * len(self.replacements))
        if len(self.broken) > allowed:
            raise DataError(
                f"{len(self.broken)} of {len(self.replacements)} frames are broken, more than "
                f"{100 * MAX_REPLACED_SHARE:g} %; check the dataset. The last one: {error}"
            )

    def _substitute(self, generator: torch.Generator) -> dict:
        order = Shuffle(len(self.replacements), generator)
        for place in range(len(order)):
            candidate = int(self.replacements[order[place]])
            if candidate in self.broken:
                continue
            try:
                return self.view(self.frames.frame(candidate), generator=generator)
            except DataError as error:
                self._count_broken(candidate, error)
        raise DataError("every frame of the list is broken")


class EvaluationFrames(Dataset):
    """Place in `indices` -> what is needed to score that frame. Each frame once, in list order.

    An entry has image (3, H, W) float32 in [0, 1] at `image_size`; index; ground_truths, by kind,
    each (1, H', W') float32 metres in its stored size, 0 = none. Of a frame without ground truth
    the kind "size" says how large its picture is: all zeros.

    Args:
        frames: a dataset with `frame(index)` and `ground_truths(index)`.
        image_size: (height, width) of the network's input.
        own_ground_truth_only: leave other kinds than the dataset's own unread.
    """

    def __init__(
        self,
        frames: Any,
        indices: Sequence[int],
        *,
        image_size: tuple[int, int],
        own_ground_truth_only: bool = False,
    ):
        self.frames = frames
        self.indices = list(indices)
        self.image_size = image_size
        self.own_ground_truth_only = own_ground_truth_only

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, place: int) -> dict:
        index = self.indices[place]
        frame = self.frames.frame(index)
        readers = self.frames.ground_truths(index)
        if self.own_ground_truth_only:
            readers = dict(list(readers.items())[:1])
        depths = {kind: torch.from_numpy(read())[None] for kind, read in readers.items()}
        if not depths:
            depths = {"size": torch.zeros(1, frame.image.height, frame.image.width)}
        image = evaluation_image(frame, self.image_size)
        return {"image": image, "index": index, "ground_truths": depths}


def training_batches(
    samples: TrainingSamples,
    order: SampleOrder,
    *,
    num_workers: int,
    device: torch.device,
    timeout_s: float = 0.0,
) -> Iterator[dict]:
    """Endless iterator of collated batches, see `on_device`; for `colours.colour_views`.

    Args:
        timeout_s: seconds to wait for a batch of a loader process, then RuntimeError; 0 = for ever.
    """
    loader = DataLoader(
        samples,
        batch_sampler=order,
        num_workers=num_workers,
        pin_memory=device.type == "cuda",
        persistent_workers=num_workers > 0,
        prefetch_factor=4 if num_workers else None,
        worker_init_fn=start_worker,
        timeout=timeout_s if num_workers else 0,
    )
    return on_device(_told_of_deaths(iter(loader)), device)  # its processes start now


def _told_of_deaths(batches: Iterator[dict]) -> Iterator[dict]:
    """The same; a process that dies amid handing a batch over is an error of the loader's."""
    try:
        yield from batches
    except (ConnectionError, EOFError, FileNotFoundError) as error:
        if "in DataLoader worker process" in str(error):  # its own trouble: it is alive
            raise
        raise RuntimeError(f"DataLoader worker was gone amid a batch: {error!r}") from error


def on_device(batches: Iterable[dict], device: torch.device) -> Iterator[dict]:
    """The same batches with their tensors on `device`, but for those in `FOR_THE_HOST`.

    On a GPU the next batch is on its way while a step works with the last one. Copies do not wait
    for the step, nor it for them, if the tensors come in pinned memory.
    """
    if device.type != "cuda":
        yield from batches
        return
    copying = torch.cuda.Stream(device)
    upcoming: dict | None = None
    for batch in batches:
        with torch.cuda.stream(copying):
            following = _moved(batch, device)
        if upcoming is not None:
            yield upcoming
        computing = torch.cuda.current_stream(device)
        computing.wait_stream(copying)
        for value in following.values():
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(computing)  # its memory is not reused before that is done
        upcoming = following
    if upcoming is not None:
        yield upcoming


def _moved(batch: dict, device: torch.device) -> dict:
    return {
        key: value.to(device, non_blocking=True)
        if isinstance(value, Tensor) and key not in FOR_THE_HOST
        else value
        for key, value in batch.items()
    }


def evaluation_batches(
    frames: EvaluationFrames, *, batch_size: int, num_workers: int
) -> DataLoader:
    """All frames once, in order. Images are stacked; all else stays a list."""
    return DataLoader(
        frames,
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate_evaluation,
        worker_init_fn=start_worker,
    )


def _collate_evaluation(entries: list[dict]) -> dict:
    lists = {key: [entry[key] for entry in entries] for key in entries[0]}
    return {**lists, "image": default_collate(lists["image"])}


def start_worker(_: int) -> None:
    """For `worker_init_fn` of a loader: one thread, and no ear for signals.

    A Ctrl-C or SLURM's signal reaches every process; those of the loader go on until their parent,
    which finishes its step and saves, ends them. SIGUSR2 prints where one of them is.
    """
    torch.set_num_threads(1)  # the loader's processes share the cores with the step
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    faulthandler.register(signal.SIGUSR2, all_threads=True, file=sys.__stderr__)
