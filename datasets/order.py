"""Which frame comes when: an order that is computed, never stored. Ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from .frame import DataError

ROUNDS = 12  # with 8 some orders of six frames are visibly rarer than others
_MASK = 2**64 - 1


class Shuffle:
    """A random order of 0 ... count - 1 in no memory: place -> the number that stands there.

    A Feistel network over the next power of two, keyed by `generator`; where it leads out of the
    range it is applied again until it leads back (cycle walking: Black and Rogaway, "Ciphers with
    arbitrary finite domains", CT-RSA 2002). Each of its rounds can be undone, so no number comes
    twice. A place costs some microseconds, however many there are.
    """

    def __init__(self, count: int, generator: torch.Generator):
        self.count = count
        keys = torch.randint(2**63 - 1, (ROUNDS // 2, 2), generator=generator)
        self._keys = keys.tolist()
        bits = (count - 1).bit_length()
        self._low_bits = bits // 2
        self._low_mask, self._high_mask = (1 << bits // 2) - 1, (1 << bits - bits // 2) - 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> int:
        """Raises IndexError outside of 0 ... count - 1."""
        if not 0 <= place < self.count:
            raise IndexError(f"place {place} of an order of {self.count}")
        number = self._permuted(place)
        while number >= self.count:
            number = self._permuted(number)
        return number

    def _permuted(self, number: int) -> int:
        """A permutation of all numbers of so many bits."""
        low_mask, high_mask = self._low_mask, self._high_mask
        low, high = number & low_mask, number >> self._low_bits
        for key, other_key in self._keys:
            low ^= _mixed(high, key) & low_mask
            high ^= _mixed(low, other_key) & high_mask
        return high << self._low_bits | low


def _mixed(number: int, key: int) -> int:
    """32 bits that depend on all of both: key and multiply, fold, multiply, the upper half."""
    mixed = number * 0x9E3779B97F4A7C15 + key & _MASK
    return ((mixed ^ mixed >> 32) * 0xBF58476D1CE4E5B9 & _MASK) >> 32


class SampleOrder:
    """An endless order of samples: pass after pass over the frames, each pass shuffled anew.

    The k-th sample of the run is the same frame whatever the batch size, the number of loader
    processes, or where the run was resumed; lists shorter than a batch simply wrap around.

    Yields lists of (sample number, frame index), one list a batch. Process `rank` of `world_size`
    takes its own consecutive share of the samples that all take at a time.

    Args:
        indices: frames to draw from; kept as they are, not copied.
        batch_size: samples per batch and process.
        first_sample: number to start at: how many samples all processes had before.
        generator_for: pass number -> generator that shuffles this pass.
    """

    def __init__(
        self,
        indices: Sequence[int],
        *,
        batch_size: int,
        first_sample: int,
        generator_for: Callable[[int], torch.Generator],
        rank: int = 0,
        world_size: int = 1,
    ):
        if len(indices) == 0:
            raise DataError("no frames to draw from: the list is empty")
        self.indices = indices
        self.batch_size = batch_size
        self.first_sample = first_sample
        self.generator_for = generator_for
        self.rank = rank
        self.world_size = world_size

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        start = self.first_sample + self.rank * self.batch_size
        count = len(self.indices)
        current, order = -1, None  # pass number, its order
        while True:
            batch = []
            for number in range(start, start + self.batch_size):
                which_pass, place = divmod(number, count)
                if which_pass != current:
                    current, order = which_pass, Shuffle(count, self.generator_for(which_pass))
                batch.append((number, int(self.indices[order[place]])))
            yield batch
            start += self.world_size * self.batch_size
