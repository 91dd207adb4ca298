"""How large a saved state is, and whether it fits a module, told from its tensors. Ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

MAX_NAMED = 3  # tensors that do not fit; the others are counted


def num_bytes(state: Any) -> int:
    """Bytes that the tensors in nested dicts, lists and tuples take in a file.

    torch.save writes each storage once, and as a whole: two tensors may share one, or see a part.
    """
    sizes, waiting = {}, [state]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Tensor):
            storage = value.untyped_storage()
            sizes[value.device, storage.data_ptr()] = storage.nbytes()
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
    return sum(sizes.values())


def misfits(saved: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """Which tensors are not in both, or of other shapes: one line, "" where all fit.

    Args:
        saved: state_dict of a file.
        wanted: state_dict of the module that it is for.
    """
    shapes = [{k: tuple(tensor.shape) for k, tensor in part.items()} for part in (saved, wanted)]
    found, needed = shapes
    names = [name for name in {**needed, **found} if found.get(name) != needed.get(name)]
    told = [
        f"{name} is {found.get(name, 'missing')} in the file and {needed.get(name, 'missing')} here"
        for name in names[:MAX_NAMED]
    ]
    return "; ".join(told + [f"{len(names) - MAX_NAMED} more"] * (len(names) > MAX_NAMED))
