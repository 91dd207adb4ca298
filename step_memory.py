"""How much memory a pass of a training step takes, from the configuration alone.

Counted, not guessed: the real step runs forward and backward on tensors that have shapes and no
values (PyTorch's FakeTensorMode), and whatever is alive at a time is added up, each storage once.
No dataset, no weights, no GPU and no network access are needed. (Ours.)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from itertools import chain
from math import prod
from typing import Any, NamedTuple

import torch
from dotmap import DotMap
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from datasets.kitti import NATIVE_SIZES
from datasets.nyu import SIZE
from datasets.synthetic_tree import SyntheticSettings
from datasets.virtual_kitti import VirtualKitti
from networks import DepthNetwork, build_network
from networks.masking import Tiles, assign_groups, pack_groups
from self_supervision import wanted_sources
from unlabeled import unlabeled_size
from utils.averaging import WeightAverage
from utils.optimization import autocast
from utils.seeding import seeded

GIB = 2**30
# (height, width) to which a dataset's training depth is brought. Of others, whose files alone know
# it, the network's
DEPTH_SIZES = {
    "kitti": NATIVE_SIZES[0],
    "nyu": SIZE,
    "synthetic": SyntheticSettings.image_size,
    "virtual_kitti": VirtualKitti.depth_size,
}


class Images(NamedTuple):
    """Labelled and unlabelled images of a pass or a step."""

    labeled: int
    unlabeled: int

    def __str__(self) -> str:
        return f"{self.labeled} + {self.unlabeled}" if self.unlabeled else str(self.labeled)

    def times(self, number: int) -> Images:
        return Images(self.labeled * number, self.unlabeled * number)


class LiveMemory(TorchDispatchMode):
    """Bytes of the tensors that operators make within, as long as they live; views count once.

    Works on fake tensors and on real ones. What a kernel takes for itself and gives back before it
    returns is not seen.

    Attributes:
        live, peak: bytes now, and the most so far.
    """

    def __init__(self):
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.watch, result)
        return result

    def watch(self, tensor: Tensor) -> None:
        """Count what was made before, too."""
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key in self._storages:
            return

        def forget(_: weakref.ref) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, forget)
        self.live += size
        self.peak = max(self.peak, self.live)


class PassMemory(NamedTuple):
    """Bytes of one process: `held` between passes, and at the `peak` of a pass."""

    held: int
    peak: int


def pass_memory(
    cfg: DotMap,
    images: Images,
    *,
    build_step: Callable[..., nn.Module],
    masked: bool,
    precision: str,
    checkpointing: bool,
    **network_changes: Any,
) -> PassMemory:
    """What a pass over so many images takes, gradients of the one before being there.

    Held are weights, gradients, both moments of Adam and, where there is one, the average of the
    weights; with several processes gradients lie in the buckets that are sent, so these are no
    more. In the peak are half-precision copies of weights, and whatever an operator hands to the
    next. Not in it: batches that wait (3 bytes a pixel) and what `LiveMemory` does not see. Types
    are those of autocast on a CPU; in what these networks compute they are a GPU's.

    Args:
        build_step: `build_step(cfg, network, resumed=True)` is the module that is trained.
        masked: whether that takes strong views and their tiles (consistency_train.py).
        precision: fp32, bf16 or fp16.
        checkpointing: in place of `train.activation_checkpointing`.
        network_changes: in place of the section `network`.
    """
    settings = cfg.network.toDict() | {"pretrained": "none"} | network_changes
    with torch.device("meta"):
        network = build_network(**settings)
        step = build_step(cfg, network, resumed=True)
        averaged = WeightAverage(network, cfg.train.ema_decay)
    kept = [step] if averaged.average is None else [step, averaged.average]
    if checkpointing:
        network.recompute_activations()
    tiles = dict(_tiles(cfg, network, images)) if masked else {}
    teacher = averaged.network if cfg.train.teacher == "average" else network
    with FakeTensorMode(allow_non_fake_inputs=True), LiveMemory() as memory:
        for module in kept:
            module.to_empty(device="cpu")
            for tensor in chain(module.parameters(), module.buffers()):
                memory.watch(tensor)
        trained = [p for p in step.parameters() if p.requires_grad]
        _moments = [torch.empty_like(p) for p in trained for _ in range(2)]
        for parameter in trained:
            parameter.grad = torch.empty_like(parameter)
        held = memory.live
        inputs = _inputs(cfg, network, teacher, images, tiles)
        with autocast(torch.device("cpu"), precision):
            losses = step(*inputs)
        sum(loss for loss in losses.values() if loss.requires_grad).backward()
    return PassMemory(held, memory.peak)


def _inputs(
    cfg: DotMap,
    network: DepthNetwork,
    teacher: DepthNetwork,
    images: Images,
    tiles: dict[str, Tiles],
) -> list:
    """What the step is called with; without `tiles` it is the supervised one."""
    inputs: list = [_labeled_batch(cfg, network, images.labeled, strong="labeled" in tiles)]
    if images.unlabeled:
        inputs.append(_unlabeled_batch(cfg, network, images.unlabeled, strong=bool(tiles)))
    if tiles:
        on_device = {  # fakes of the real ones
            name: Tiles(*(None if part is None else part.clone() for part in each))
            for name, each in tiles.items()
        }
        inputs += [on_device, teacher]
    return inputs


def _labeled_batch(cfg: DotMap, network: DepthNetwork, count: int, *, strong: bool) -> dict:
    """Shapes of `colour_views` of `labeled_view`."""
    size = DEPTH_SIZES.get(cfg.labeled.dataset, network.image_size)
    names = ["image", *["strong_image"] * strong]
    batch = {name: torch.empty(count, 3, *network.image_size) for name in names}
    batch["depth"] = torch.empty(count, 1, *size)
    return batch | {"valid_mask": torch.empty(count, 1, *size, dtype=torch.bool)}


def _unlabeled_batch(cfg: DotMap, network: DepthNetwork, count: int, *, strong: bool) -> dict:
    """Shapes of `colour_views` of `unlabeled_view`."""
    size, wanted = unlabeled_size(cfg, network), wanted_sources(cfg)
    names = ["weak_image", *["strong_image"] * strong, *["target_image"] * (wanted is not None)]
    batch = {name: torch.empty(count, 3, *size) for name in names}
    if wanted is None:
        return batch
    number = wanted.number
    return batch | {
        "source_images": torch.empty(count, number, 3, *size),
        "intrinsics": torch.empty(count, 3, 3),
        "source_intrinsics": torch.empty(count, number, 3, 3),
        "source_poses": torch.empty(count, number, 4, 4),
        "source_available": torch.empty(count, number, dtype=torch.bool),
    }


def _tiles(cfg: DotMap, network: DepthNetwork, images: Images) -> Iterator[tuple[str, Tiles]]:
    """Of the strong views, by stream; real ones, for how many there are follows from the draw."""
    streams = {"unlabeled": (images.unlabeled, unlabeled_size(cfg, network))}
    if cfg.loss_weights.strong_depth:
        streams["labeled"] = (images.labeled, network.image_size)
    for name, (count, size) in streams.items():
        groups = assign_groups(
            count, prod(network.encoder.grid(size)), cfg.masking.num_groups, rule=cfg.masking.rule,
            generator=seeded(cfg.run.seed, "plan", name),
        )  # fmt: skip
        yield name, pack_groups(groups, num_prefix=network.encoder.num_prefix)
