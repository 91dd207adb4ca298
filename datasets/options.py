"""The two options every dataset constructor has, refused where they mean nothing."""

from __future__ import annotations

from collections.abc import Collection

from datasets.frame import DataError


def check_variant(dataset: str, variant: str | None, variants: Collection[str]) -> None:
    """Raise DataError, naming the legal values, unless `variant` is None or one of `variants`."""
    if variant is None or variant in variants:
        return
    legal = f"choose {', '.join(variants)} or null" if variants else "it has none, leave it null"
    raise DataError(f"{dataset} has no variant {variant!r}; {legal}")


def refuse_depth_scale(dataset: str, depth_scale: float | None, known: str) -> None:
    """Raise DataError if `depth_scale` is given to a dataset whose scale is `known`."""
    if depth_scale is not None:
        raise DataError(f"depth_scale {depth_scale}: {dataset}'s is known ({known}); leave it null")
