"""K-way disjoint masking: who sees whom.

The N patch tokens of each image are split at random into `num_groups` disjoint groups (the paper's
K). Each group is encoded as a sequence of its own by the same ViT, so nothing can cross; then every
token goes back to its place and the whole grid is decoded once. No token is lost: only its context
shrinks to its group. Positions were added before, so a token knows where it stands.

Everything between the patch embedding and the taps, attention apart, treats tokens one by one.
Groups of one size, of whichever image, therefore stack into one ordinary batch of short sequences:
no mask, no padding, and attention costs the sum of squared group sizes instead of N squared.
"""

from __future__ import annotations

import torch
from torch import Tensor

DROPPED = -1  # group id of a token that is not encoded at all


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


def sequences_by_size(groups: Tensor) -> list[Tensor]:
    """All groups of a batch, gathered by size: what is encoded together.

    Args:
        groups: (B, N) long group ids; DROPPED tokens belong to no group.

    Returns:
        For each size s that occurs, a (G, s) long tensor on the CPU: the G groups of s tokens as
        places in the flattened (B * N) tokens. Places rise within a group, so that a single group
        is the ordinary sequence, bit for bit. "equal" gives at most two tensors.
    """
    batch_size = len(groups)
    groups = groups.cpu()
    num_ids = int(groups.max()) + 1
    owner = groups + num_ids * torch.arange(batch_size)[:, None]  # one id per group of the batch
    owner = torch.where(groups == DROPPED, batch_size * num_ids, owner).flatten()
    order = owner.argsort(stable=True)
    sizes = owner.bincount(minlength=batch_size * num_ids + 1)
    starts = sizes.cumsum(0) - sizes
    sizes[-1] = 0  # the dropped ones are no group
    sequences = []
    for size in sizes.unique().tolist():
        if size > 0:
            first = starts[sizes == size]
            sequences.append(order[first[:, None] + torch.arange(size)])
    return sequences


def put_back(
    encoded: list[Tensor], sequences: list[Tensor], batch_size: int, num_tokens: int
) -> Tensor:
    """Encoded groups (G, s, D), in the order of `sequences`, -> tokens (B, N, D) at their places.

    DROPPED tokens come back as zeros: holes for the decoder.
    """
    tokens = torch.cat([group.flatten(0, 1) for group in encoded])
    places = torch.cat([place.flatten() for place in sequences])
    source = places.new_full((batch_size * num_tokens,), len(tokens))
    source[places] = torch.arange(len(tokens), device=places.device)
    if len(tokens) < len(source):
        tokens = torch.cat([tokens, tokens.new_zeros(1, tokens.shape[1])])
    return tokens.index_select(0, source).unflatten(0, (batch_size, num_tokens))
