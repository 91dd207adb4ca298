"""Randomness as an argument: a generator is a pure function of what it is for.

Nothing about random state is ever saved: the same words give the same draws, so a resumed run, or
one with another number of loader processes, draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import torch


def seeded(seed: int, purpose: str, *keys: int | str) -> torch.Generator:
    """A CPU generator for `purpose` (e.g. "labeled view") at `keys` (e.g. the sample's number)."""
    digest = hashlib.blake2b(repr((seed, purpose, *keys)).encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def seed_initialisation(seed: int) -> None:
    """Seed torch's global generator, from which module constructors draw initial weights.

    Called once, before the network is built; nothing draws from global state after that.
    """
    digest = hashlib.blake2b(repr((seed, "initialisation")).encode(), digest_size=8).digest()
    torch.manual_seed(int.from_bytes(digest, "little") >> 1)
