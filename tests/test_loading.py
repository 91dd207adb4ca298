"""Which frame comes when: endless, seeded, indifferent to workers, batch size and resume."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.frame import UNKNOWN_INTRINSICS, DataError, Frame
from datasets.loading import (
    EvaluationFrames,
    TrainingSamples,
    evaluation_batches,
    training_batches,
)
from datasets.order import SampleOrder
from datasets.views import Jitter, labeled_view
from utils.seeding import seeded

SHUFFLE = partial(seeded, 0, "order")
DRAWS = partial(seeded, 0, "view")
VIEW = partial(
    labeled_view,
    image_size=(8, 8),
    depth_size=(8, 8),
    max_depth=80.0,
    augmentation=Jitter(flip=0.5, jitter=1, brightness=0.5, contrast=0.5, saturation=0.5, hue=0),
)


class Frames:
    """`size` tiny frames in memory, whose grey value is their number; some may be broken."""

    def __init__(self, size, broken=()):
        self.frame_ids = tuple(str(i) for i in range(size))
        self.broken = broken

    def frame(self, index):
        if index in self.broken:
            raise DataError(f"frame {index} is broken")
        image = Image.new("RGB", (8, 8), (index, index, index))
        return Frame(str(index), image, UNKNOWN_INTRINSICS, lambda: np.ones((8, 8), np.float32))

    def ground_truths(self, index):
        return {
            "own": lambda: np.ones((8, 8), np.float32),
            "other": lambda: np.full((8, 8), 2, np.float32),
        }


def batches(frames, *, workers=0, steps=6, first_step=0, replacements=None):
    samples = TrainingSamples(frames, view=VIEW, generator_for=DRAWS, replacements=replacements)
    chosen = SampleOrder(
        range(len(frames.frame_ids)), batch_size=3, first_step=first_step, generator_for=SHUFFLE
    )
    loaded = training_batches(samples, chosen, num_workers=workers, pin_memory=False)
    return list(itertools.islice(loaded, steps))


def test_batches_do_not_depend_on_the_number_of_workers_or_on_where_one_starts():
    frames = Frames(5)
    reference = batches(frames)
    for other in (batches(frames, workers=2), batches(frames, first_step=0)):
        for one, same in zip(reference, other, strict=True):
            assert one["frame_id"] == same["frame_id"] and torch.equal(one["image"], same["image"])
    resumed = batches(frames, steps=3, first_step=3)
    assert all(
        torch.equal(a["image"], b["image"]) for a, b in zip(reference[3:], resumed, strict=True)
    )


def test_a_broken_frame_is_an_error_that_names_it():
    with pytest.raises(DataError, match="frame 2 is broken"):
        batches(Frames(5, broken={2}))


def test_a_broken_frame_is_replaced_and_counted_when_asked_always_by_the_same(capsys):
    frames = Frames(5, broken={2})
    loaded = batches(frames, replacements=range(5))
    names = [name for batch in loaded for name in batch["frame_id"]]
    assert "2" not in names
    assert sum(int(batch["replaced"].sum()) for batch in loaded) >= 3  # once a pass
    assert capsys.readouterr().out.count("frame 2 is broken") == 1
    again = [name for batch in batches(frames, replacements=range(5)) for name in batch["frame_id"]]
    assert names == again


def test_a_dataset_with_many_broken_frames_is_refused_even_then():
    with pytest.raises(DataError, match="2 of 5 frames are broken"):
        batches(Frames(5, broken={2, 3}), replacements=range(5))


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_takes_each_frame_once_in_order(workers):
    frames = Frames(7)
    loader = evaluation_batches(
        EvaluationFrames(frames, [6, 0, 3, 2, 5], image_size=(4, 8)),
        batch_size=2,
        num_workers=workers,
    )
    collected = list(loader)
    assert [index for batch in collected for index in batch["index"]] == [6, 0, 3, 2, 5]
    assert [len(batch["image"]) for batch in collected] == [2, 2, 1]
    assert collected[0]["image"].shape[1:] == (3, 4, 8)
    assert collected[0]["image"][0].unique().tolist() == pytest.approx([6 / 255])


def test_evaluation_reads_every_ground_truth_or_only_the_own_one():
    for own_only, kinds in ((False, ["own", "other"]), (True, ["own"])):
        frames = EvaluationFrames(Frames(3), [1], image_size=(4, 8), own_ground_truth_only=own_only)
        depths = frames[0]["ground_truths"]
        assert list(depths) == kinds and depths["own"].shape == (1, 8, 8)


def test_a_frame_without_ground_truth_still_says_its_size():
    frames = Frames(3)
    frames.ground_truths = lambda index: {}
    entry = EvaluationFrames(frames, [0], image_size=(4, 8))[0]
    assert list(entry["ground_truths"]) == ["size"]
    assert torch.equal(entry["ground_truths"]["size"], torch.zeros(1, 8, 8))
