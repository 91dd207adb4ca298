"""K-way disjoint masking: who sees whom.

The N patch tokens of each image are split at random into `num_groups` disjoint groups (the paper's
K). Each group is encoded as a sequence of its own by the same ViT, so nothing can cross; then every
token goes back to its place and the whole grid is decoded once. No token is lost: only its context
shrinks to its group. Positions were added before, so a token knows where it stands.

Everything between the patch embedding and the taps, attention apart, treats tokens one by one. So
whole groups, of whichever image, are packed into tiles of about 64 tokens, one ordinary batch of
short sequences; within a tile a mask keeps the groups apart exactly. Attention costs 64 / N of the
dense one (the share of the largest group, where that is larger), with hardly any padding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DROPPED = -1  # group id of a token that is not encoded at all
TILE_SIZE = (
    64  # slots; fewer leave matrix units idle, more compute attention that the mask throws away
)


def assign_groups(
    batch_size: int,
    num_tokens: int,
    num_groups: int,
    *,
    generator: torch.Generator,
    rule: str = "equal",
) -> Tensor:
    """Split each image's tokens at random into `num_groups` disjoint groups.

    Args:
        batch_size: number of images; each gets a partition of its own.
        num_tokens: N, tokens per image. With fewer tokens than groups some groups stay empty.
        num_groups: the paper's K. 1 puts every token into one group: the ordinary pass.
        generator: a CPU generator; nothing else is drawn from.
        rule: how large the groups are.
            "equal": sizes differ by at most one (ours, and the default);
            "random_cuts": sizes between num_groups - 1 random cut points, as the authors' code has
                them: some groups are empty, and a token has about twice as many companions;
            "naive": only one of `num_groups` equal groups is encoded and the others are dropped
                (2 drops half of the tokens): the ablation that K-way masking answers.

    Returns:
        (batch_size, num_tokens) long on the CPU: ids from 0 to num_groups - 1, or DROPPED.

    Raises:
        ValueError: an unknown rule, or a number below one.
    """
    if min(batch_size, num_tokens, num_groups) < 1:
        raise ValueError(
            f"batch_size {batch_size}, num_tokens {num_tokens} and num_groups {num_groups} "
            "must all be at least 1"
        )
    if rule not in GROUP_RULES:
        raise ValueError(f"masking rule {rule!r} is not one of {', '.join(GROUP_RULES)}")
    ids = GROUP_RULES[rule](batch_size, num_tokens, num_groups, generator)
    # float64: two of a few thousand float32 draws are equal too often
    draws = torch.rand(batch_size, num_tokens, generator=generator, dtype=torch.float64)
    return torch.empty_like(ids).scatter_(1, draws.argsort(dim=1), ids)


def _equal(batch_size: int, num_tokens: int, num_groups: int, _: torch.Generator) -> Tensor:
    """Group ids in rising order, before they are shuffled: all sizes within one of each other."""
    return (torch.arange(num_tokens) * num_groups // num_tokens).repeat(batch_size, 1)


def _random_cuts(
    batch_size: int, num_tokens: int, num_groups: int, generator: torch.Generator
) -> Tensor:
    """Group ids between cut points drawn with replacement from 1 to N - 1; drawn for each image."""
    cuts = torch.randint(
        1, max(2, num_tokens), (batch_size, num_groups - 1), generator=generator
    ).sort(dim=1)[0]
    places = torch.arange(num_tokens).repeat(batch_size, 1)
    return torch.searchsorted(cuts, places, right=True)


def _naive(batch_size: int, num_tokens: int, num_groups: int, generator: torch.Generator) -> Tensor:
    ids = _equal(batch_size, num_tokens, num_groups, generator)
    return torch.where(ids == 0, ids, DROPPED)


GROUP_RULES = {"equal": _equal, "random_cuts": _random_cuts, "naive": _naive}


class Tiles(NamedTuple):
    """Where each token of a batch stands when its groups are encoded; made by `pack_groups`.

    Attributes:
        source: (T, S) long: which row of the flattened (B * N) tokens, followed by the P prefix
            tokens, stands in slot s of tile t. Padding slots hold row 0.
        owner: (T, S) long: number of the group that a slot belongs to, -1 for padding. Slots attend
            to those of the same owner. None where every tile is filled by a single group: then all
            attend to all.
        back: (B, N) long: slot of each token in the flattened (T * S); T * S if it was dropped.
    """

    source: Tensor
    owner: Tensor | None
    back: Tensor

    @property
    def encoded(self) -> Tensor:
        """(B, N) bool: False where a token was dropped."""
        return self.back < self.source.numel()

    def to(self, device: torch.device) -> Tiles:
        """The same on `device`; where that is a GPU, nobody waits for the copy."""

        def moved(part: Tensor | None) -> Tensor | None:
            if part is not None and device.type == "cuda":
                part = part.pin_memory()
            return None if part is None else part.to(device, non_blocking=True)

        return Tiles(*map(moved, self))


def pack_groups(groups: Tensor, *, num_prefix: int = 0, tile_size: int = TILE_SIZE) -> Tiles:
    """Pack all groups of a batch, of whichever image, into tiles of about `tile_size` slots.

    Within a group tokens stand in rising order behind a copy of the prefix tokens, so a single
    group is the ordinary sequence, bit for bit. Groups larger than `tile_size` get tiles of their
    own size. Nothing is drawn.

    Args:
        groups: (B, N) long group ids; DROPPED tokens belong to no group.
        num_prefix: P, class and register tokens that each group has a copy of.
    """
    batch_size, num_tokens = groups.shape
    groups = groups.cpu()
    num_ids = int(groups.max()) + 1
    owner = groups + num_ids * torch.arange(batch_size)[:, None]  # one id per group of the batch
    dropped = batch_size * num_ids
    owner = torch.where(groups == DROPPED, dropped, owner).flatten()
    order = owner.argsort(stable=True)
    counts = owner.bincount(minlength=dropped + 1)
    starts = counts.cumsum(0) - counts
    counts[-1] = 0  # the dropped ones are no group
    sizes = counts.unique().tolist()
    groups_of_size = {s + num_prefix: (counts == s).nonzero().flatten() for s in sizes if s}
    largest = max(groups_of_size)
    # a whole image has a tile of its own, as in the ordinary pass
    shared = largest < num_tokens + num_prefix
    capacity = largest * (max(1, round(tile_size / largest)) if shared else 1)
    rows = _fill_tiles({size: len(ids) for size, ids in groups_of_size.items()}, capacity)

    num_tiles = sum(repeats for repeats, _ in rows)
    source = torch.zeros(num_tiles, capacity, dtype=torch.long)
    slot_owner = torch.full((num_tiles, capacity), -1)
    prefix = batch_size * num_tokens + torch.arange(num_prefix)
    used = dict.fromkeys(groups_of_size, 0)
    first_tile = 0
    for repeats, pattern in rows:
        tiles, slot = slice(first_tile, first_tile + repeats), 0
        for size, take in pattern.items():
            ids = groups_of_size[size][used[size] : used[size] + repeats * take]
            used[size] += repeats * take
            tokens = order[starts[ids][:, None] + torch.arange(size - num_prefix)]
            tokens = torch.cat([prefix.expand(len(ids), -1), tokens], dim=1)
            slots = slice(slot, slot + take * size)
            source[tiles, slots] = tokens.view(repeats, take * size)
            slot_owner[tiles, slots] = ids[:, None].expand(-1, size).reshape(repeats, take * size)
            slot += take * size
        first_tile += repeats

    back = torch.full((batch_size * num_tokens + num_prefix,), source.numel())
    taken = slot_owner.flatten() >= 0
    back[source.flatten()[taken]] = torch.arange(source.numel())[taken]
    back = back[: batch_size * num_tokens].view(batch_size, num_tokens)
    alone = (slot_owner == slot_owner[:, :1]).all()
    return Tiles(source, None if alone else slot_owner, back)


def _fill_tiles(waiting: dict[int, int], capacity: int) -> list[tuple[int, dict[int, int]]]:
    """Which group sizes share a tile: (how many such tiles, {size: groups of it in each}).

    Largest first, then whatever still fits; `waiting` has the number of groups of each size.
    """
    waiting, rows = dict(sorted(waiting.items(), reverse=True)), []
    while waiting:
        pattern, room = {}, capacity
        for size, count in waiting.items():
            if take := min(count, room // size):
                pattern[size], room = take, room - take * size
        repeats = min(waiting[size] // take for size, take in pattern.items())
        rows.append((repeats, pattern))
        waiting = {s: n - repeats * pattern.get(s, 0) for s, n in waiting.items()}
        waiting = {s: n for s, n in waiting.items() if n}
    return rows
