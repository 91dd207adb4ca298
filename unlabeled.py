"""The plain images of a training: opened, checked, and as endless batches. Both scripts use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from dotmap import DotMap

from datasets.leakage import check_apart, check_trainable
from datasets.photometric import Strong
from datasets.source_views import FramesWithSources
from datasets.splits import frame_ids_at
from datasets.views import Jitter, unlabeled_view
from frames import Stream, open_frames, refuse_test
from networks import DepthNetwork
from self_supervision import wanted_sources
from streams import endless_batches, from_cache
from utils.processes import Process, check_same_everywhere


def open_unlabeled(cfg: DotMap, labeled: Stream, validation: Stream, process: Process) -> Stream:
    """The plain images; of their files only the pictures are asked for.

    Raises DataError if none is left, one belongs to a test scene, or more than
    `unlabeled.may_share` allows are validated on; DisagreementError if processes would train on
    others.
    """
    known = ()
    if cfg.unlabeled.exclude_labeled:
        known = {labeled[0].paths(index)["image"].resolve() for index in labeled[1]}
    dataset, indices = open_frames(
        cfg.unlabeled, seed=cfg.run.seed, budget="frames", roles=("image",),
        exclude=known,
    )  # fmt: skip
    check_trainable(frame_ids_at(dataset, indices), dataset)
    refuse_test("unlabeled", cfg.unlabeled, (dataset, indices))
    check_apart((dataset, indices), validation, cfg.unlabeled.may_share)
    check_same_everywhere(cfg.unlabeled.list_sha256, "unlabelled frames", process)
    return dataset, indices


def unlabeled_size(cfg: DotMap, network: DepthNetwork) -> tuple[int, int]:
    """(height, width) in pixels of plain images; NetworkError unless the patch divides it."""
    size = tuple(cfg.unlabeled.image_size or network.image_size)
    network.encoder.grid(size)
    return size


def unlabeled_batches(
    cfg: DotMap,
    stream: Stream,
    network: DepthNetwork,
    *,
    strong: Strong | None,
    samples: Mapping[str, int],
    process: Process,
) -> Iterator[dict]:
    """Endless batches of `unlabeled_view`; with sources where the configuration asks for them."""
    shape = {"image_size": unlabeled_size(cfg, network), "crop": cfg.unlabeled.crop}
    dataset, indices = from_cache(cfg, stream, **shape)
    wanted = wanted_sources(cfg)
    if wanted is not None:
        dataset = FramesWithSources(dataset, wanted)
    view = partial(
        unlabeled_view, augmentation=Jitter(**cfg.augmentation.toDict()), strong=strong, **shape
    )
    return endless_batches(
        cfg, "unlabeled", (dataset, indices), view, samples=samples, process=process
    )
