"""Which frame comes when: every frame once a pass, whatever batch size, processes and resume."""

import itertools
from functools import partial

import pytest

from datasets.frame import DataError
from datasets.order import SampleOrder
from utils.seeding import seeded

SHUFFLE = partial(seeded, 0, "order")


def order(indices, *, batch_size=3, first_step=0, rank=0, world_size=1, steps=20):
    batches = SampleOrder(
        indices, batch_size=batch_size, first_step=first_step, generator_for=SHUFFLE, rank=rank,
        world_size=world_size,
    )  # fmt: skip
    return list(itertools.islice(batches, steps))


def test_every_pass_has_every_frame_once_in_an_order_of_its_own():
    samples = [index for batch in order(range(10, 17), steps=21) for _, index in batch]
    passes = [samples[i : i + 7] for i in range(0, 63, 7)]
    assert all(sorted(one) == list(range(10, 17)) for one in passes)
    assert len({tuple(one) for one in passes}) > 5


def test_a_list_shorter_than_a_batch_wraps_around():
    batch = order([4, 9], batch_size=5, steps=1)[0]
    assert len(batch) == 5 and {index for _, index in batch} == {4, 9}


def test_the_kth_sample_does_not_depend_on_the_batch_size():
    small = [item for batch in order(range(7), batch_size=2, steps=30) for item in batch]
    large = [item for batch in order(range(7), batch_size=5, steps=12) for item in batch]
    assert small == large


def test_starting_at_a_step_equals_having_run_up_to_it():
    assert order(range(7), steps=20)[13:] == order(range(7), first_step=13, steps=7)


def test_processes_share_each_step_without_overlap():
    alone = order(range(11), batch_size=4, steps=9)
    shares = [order(range(11), batch_size=2, rank=r, world_size=2, steps=9) for r in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == alone


def test_an_empty_list_is_refused():
    with pytest.raises(DataError, match="the list is empty"):
        order([])
