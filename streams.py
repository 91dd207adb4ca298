"""Labelled and validation frames of a training, and any stream as endless batches.

Both scripts use it; plain images are opened in unlabeled.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from dotmap import DotMap

from datasets.cache import cached_frames
from datasets.leakage import check_overlap, check_trainable
from datasets.loading import TrainingSamples, training_batches
from datasets.order import SampleOrder
from datasets.splits import frame_ids_at
from frames import Stream, open_frames, refuse_test
from utils.processes import Process, check_same_everywhere
from utils.seeding import seeded


def open_labels(cfg: DotMap, process: Process) -> tuple[Stream, Stream]:
    """Labelled and validation frames.

    Raises DataError if a file is missing, one is a test frame, or the two share more than
    `validation.may_share` allows; DisagreementError if processes would train on other labels.
    """
    labeled, labeled_indices = open_frames(
        cfg.labeled, seed=cfg.run.seed, budget=cfg.labeled.budget
    )
    validation, val_indices = open_frames(cfg.validation, seed=cfg.run.seed, budget=None)
    labeled_ids = frame_ids_at(labeled, labeled_indices)
    check_trainable(labeled_ids, labeled)
    refuse_test("labeled", cfg.labeled, (labeled, labeled_indices))
    refuse_test("validation", cfg.validation, (validation, val_indices))
    check_overlap(
        labeled_ids,
        frame_ids_at(validation, val_indices),
        labeled.scene_of,
        cfg.validation.may_share,
    )
    check_same_everywhere(cfg.labeled.list_sha256, "labelled frames", process)
    return (labeled, labeled_indices), (validation, val_indices)


def from_cache(
    cfg: DotMap,
    stream: Stream,
    *,
    image_size: tuple[int, int],
    crop: Sequence[float] | None = None,
) -> Stream:
    """The same frames, their pictures from `train.cache`, which is filled first; without: `stream`.

    Raises DataError if it cannot be filled, also by a broken frame where that shall be an error.
    """
    dataset, indices = stream
    if cfg.train.cache is None:
        return stream
    dataset = cached_frames(
        dataset, indices, cfg.train.cache, image_size=image_size, crop=crop,
        num_workers=cfg.train.num_workers, skip_broken=cfg.train.on_bad_sample == "skip",
    )  # fmt: skip
    return dataset, indices


def endless_batches(
    cfg: DotMap,
    name: str,
    stream: Stream,
    view: Callable[..., dict],
    *,
    samples: Mapping[str, int],
    process: Process,
) -> Iterator[dict]:
    """Endless batches, on the device, of the stream that the section `name` describes.

    For `colour_views`, which makes of them what a step takes. Order and augmentation follow from
    seed, stream and the sample's number alone.

    Args:
        samples: by stream, how many were drawn before by all processes.
    """
    dataset, indices = stream
    drawn = TrainingSamples(
        dataset,
        view=view,
        generator_for=partial(seeded, cfg.run.seed, f"{name} view"),
        replacements=indices if cfg.train.on_bad_sample == "skip" else None,
    )
    order = SampleOrder(
        indices,
        batch_size=cfg[name].batch_size,
        first_sample=samples[name],
        generator_for=partial(seeded, cfg.run.seed, f"{name} order"),
        rank=process.rank,
        world_size=process.world_size,
    )
    return training_batches(
        drawn, order, num_workers=cfg.train.num_workers, device=process.device,
        timeout_s=cfg.train.worker_timeout_s,
    )  # fmt: skip
