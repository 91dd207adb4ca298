"""Ways to attend within disjoint groups: which tokens one call takes, and how it attends.

What `benchmarks/attention.py` measures; it has the list. A way is a list of chunks and a function;
tokens are gathered into the chunks before and put back behind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.attention.flex_attention
import torch.nn.functional as F
from torch import Tensor

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:
    varlen_attn = None

sys.path.insert(0, str(Path(__file__).parent.parent))

from networks.masking import pack_groups

HEAD_WIDTH = 64
PADDING = -1  # place of a slot that holds no token


class Chunk(NamedTuple):
    """What one call attends: places (G, s) in the flattened (B * N) tokens, and who may see whom.

    `mask` is (G or 1, 1, s, s) bool, None = everybody. Places of -1 are padding.
    """

    places: Tensor
    mask: Tensor | None

    def to(self, device: torch.device) -> Chunk:
        return Chunk(*(None if x is None else x.to(device) for x in self))


Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]  # q k v (G heads s d), mask


def dense(groups: Tensor) -> list[Chunk]:
    """All tokens of an image in their own order, (B, 1, N, N) mask."""
    places = torch.arange(groups.numel()).view(groups.shape)
    return [Chunk(places, (groups[:, :, None] == groups[:, None, :])[:, None])]


def sequences(groups: Tensor) -> list[Chunk]:
    """Groups of one size, of whichever image, a chunk; no mask."""
    members, sizes = _members(groups)
    return [
        Chunk(torch.stack([place for place in members if len(place) == size]), None)
        for size in sorted(set(sizes))
    ]


def tiles(groups: Tensor) -> list[Chunk]:
    """Whole groups in tiles of about 64 slots, as the network packs them; a mask within each."""
    packed = pack_groups(groups)
    if packed.owner is None:
        return [Chunk(packed.source, None)]
    places = torch.where(packed.owner < 0, PADDING, packed.source)
    return [Chunk(places, (packed.owner[:, :, None] == packed.owner[:, None, :])[:, None])]


def _members(groups: Tensor) -> tuple[list[Tensor], list[int]]:
    """Places of each group of the batch that is not empty, and how many they are."""
    num_ids = int(groups.max()) + 1
    owner = (groups + num_ids * torch.arange(len(groups))[:, None]).flatten()
    counts = owner.bincount()
    sizes = counts[counts > 0].tolist()
    return list(owner.argsort(stable=True).split(sizes)), sizes


def authors_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, foreign_logit: float = -10.0
) -> Tensor:
    """softmax of q k / sqrt(d) with the logits of other groups overwritten; softmax in float32."""
    logits = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    if mask is not None:
        logits.masked_fill_(~mask, foreign_logit)
    return logits.float().softmax(-1).to(v.dtype) @ v


def fused_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


def flex_attention(sizes: list[int], device: torch.device) -> Attend:
    """FlexAttention over all groups in a row; blocks of other groups are never looked at. CUDA."""
    owner = torch.repeat_interleave(torch.tensor(sizes)).to(device)
    length = len(owner)
    block_mask = torch.nn.attention.flex_attention.create_block_mask(
        lambda b, h, i, j: owner[i] == owner[j], None, None, length, length, device=device
    )
    compiled = torch.compile(torch.nn.attention.flex_attention.flex_attention, dynamic=False)
    return lambda q, k, v, _: compiled(q, k, v, block_mask=block_mask)


def varlen_attention(sizes: list[int], device: torch.device) -> Attend | None:
    """Sequences of unequal length in a row. CUDA, half precision, PyTorch 2.10; else None."""
    if varlen_attn is None:
        return None
    ends = torch.tensor([0, *sizes]).cumsum(0).to(device, torch.int32)
    longest = max(sizes)

    def attend(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> Tensor:
        rows = (x[0].transpose(0, 1).contiguous() for x in (q, k, v))  # (tokens, heads, d)
        return varlen_attn(*rows, ends, ends, longest, longest).transpose(0, 1)[None]

    return attend


def ways(
    groups: Tensor, device: torch.device, dtype: torch.dtype
) -> dict[str, tuple[list[Chunk], Attend]]:
    """name -> (chunks on the device, attention); the ones that this device cannot do are absent."""
    plans: dict[str, tuple[list[Chunk], Attend | None]] = {
        "authors": (dense(groups), authors_attention),
        "dense": (dense(groups), fused_attention),
        "sequences": (sequences(groups), fused_attention),
        "tiles": (tiles(groups), fused_attention),
    }
    if device.type == "cuda":
        members, sizes = _members(groups)
        chunk = [Chunk(torch.cat(members)[None], None)]
        plans["flex"] = (chunk, flex_attention(sizes, device))
        if dtype != torch.float32:
            plans["varlen"] = (chunk, varlen_attention(sizes, device))
    return {
        name: ([chunk.to(device) for chunk in chunks], attend)
        for name, (chunks, attend) in plans.items()
        if attend is not None
    }


def gather(tokens: Tensor, places: Tensor) -> Tensor:
    """(B * N, D) -> (G, s, D); padding holds a copy of some token, which nobody looks at."""
    return tokens.index_select(0, places.clamp(min=0).flatten()).unflatten(0, tuple(places.shape))


def put_back(outputs: Sequence[Tensor], chunks: Sequence[Chunk]) -> Tensor:
    """Outputs (G, s, D) of all chunks -> (B * N, D)."""
    places = torch.cat([chunk.places.flatten() for chunk in chunks])
    source = places.new_empty(int((places >= 0).sum()))
    slot = torch.arange(len(places), device=places.device)
    source[places[places >= 0]] = slot[places >= 0]
    return torch.cat([output.flatten(0, 1) for output in outputs]).index_select(0, source)


def core(qkv: Tensor, chunk: Chunk, attend: Attend) -> Tensor:
    """(G, s, 3 * heads * d) of the first linear layer -> (G, s, heads * d) for the second."""
    q, k, v = qkv.unflatten(-1, (3, -1, HEAD_WIDTH)).permute(2, 0, 3, 1, 4).unbind(0)
    return attend(q, k, v, chunk.mask).transpose(1, 2).flatten(2)
