"""Which frame comes when: every frame once a pass, whatever batch size, processes and resume."""

import itertools
import math
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from datasets.frame import DataError
from datasets.order import SampleOrder, Shuffle
from utils.seeding import seeded

SHUFFLE = partial(seeded, 0, "order")


def order(indices, *, batch_size=3, first_sample=0, rank=0, world_size=1, steps=20):
    batches = SampleOrder(
        indices, batch_size=batch_size, first_sample=first_sample, generator_for=SHUFFLE, rank=rank,
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
    assert order(range(7), steps=20)[13:] == order(range(7), first_sample=13 * 3, steps=7)


def test_processes_share_each_step_without_overlap():
    alone = order(range(11), batch_size=4, steps=9)
    shares = [order(range(11), batch_size=2, rank=r, world_size=2, steps=9) for r in (0, 1)]
    assert [a + b for a, b in zip(*shares, strict=True)] == alone


def test_an_empty_list_is_refused():
    with pytest.raises(DataError, match="the list is empty"):
        order([])


def test_every_place_of_an_order_has_a_number_of_its_own_whatever_the_size():
    generator = torch.Generator().manual_seed(0)
    for count in [*range(1, 130), *range(130, 2000, 37), 1024, 2000]:
        assert sorted(Shuffle(count, generator)) == list(range(count))


def test_of_millions_of_frames_a_batch_draws_some_all_over_the_list_and_none_twice():
    count = 50_000_000
    drawn = [index for batch in order(range(count), steps=5000) for _, index in batch]
    assert len(set(drawn)) == len(drawn) == 15_000
    shares = torch.histc(torch.tensor(drawn, dtype=torch.float64), bins=10, min=0, max=count)
    assert shares.min() > 1300 and shares.max() < 1700  # 1,500 each; deviation 37


def test_an_order_ends_where_its_frames_end():
    shuffle = Shuffle(5, SHUFFLE(0))
    for outside in (-1, 5):
        with pytest.raises(IndexError):
            shuffle[outside]


def chi_square(counts: dict, *, cells: int) -> float:
    """How far counts of equally probable things lie from their mean, in standard deviations."""
    expected = sum(counts.values()) / cells
    seen = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = cells - 1
    return (seen + (cells - len(counts)) * expected - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_all_orders_of_few_frames_are_equally_probable(count):
    generator = torch.Generator().manual_seed(1)
    cells = math.factorial(count)
    orders = Counter(tuple(Shuffle(count, generator)) for _ in range(50 * cells))
    assert abs(chi_square(orders, cells=cells)) < 4


@pytest.mark.parametrize("count", [8, 9, 13, 16])
@pytest.mark.parametrize("other", [1, 2, -1])
def test_any_two_places_of_an_order_hold_all_pairs_of_frames_equally_often(count, other):
    generator = torch.Generator().manual_seed(2)
    cells = count * (count - 1)
    shuffles = (Shuffle(count, generator) for _ in range(40 * cells))
    pairs = Counter((shuffle[0], shuffle[other % count]) for shuffle in shuffles)
    assert abs(chi_square(pairs, cells=cells)) < 4


def test_neighbours_of_the_list_are_no_neighbours_of_the_order():
    count = 1000
    steps = Counter()
    for number in range(40):
        shuffle = list(Shuffle(count, SHUFFLE(number)))
        steps.update((b - a) % count for a, b in itertools.pairwise(shuffle))
    assert abs(chi_square(steps, cells=count - 1)) < 4


def test_an_array_of_indices_is_drawn_from_like_a_list_of_them():
    indices = [5, 9, 2, 40]
    drawn = order(np.array(indices))
    assert drawn == order(indices)
    assert all(type(index) is int for batch in drawn for _, index in batch)
