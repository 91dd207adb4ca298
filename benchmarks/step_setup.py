"""What the benchmarks of a training step share: steps, batches, and one timed step.

Losses and weights are the paper's: L1, 0.3 m tolerated, errors in metres, features by their mean,
all weights 1, the uncertainty shapes the encoder. So ours and the reference do the same work.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.reference_step import ReferenceStep
from consistency_train import ConsistencyStep
from losses import weighted_sum
from networks import DepthNetwork, build_network
from networks.masking import assign_groups, pack_groups
from utils.optimization import autocast, backward, build_optimizer, update
from utils.seeding import seeded

TERMS = ("depth", "uncertainty", "depth_consistency", "feature_consistency")
TOLERATED_ERROR = 0.3  # metres
ADAM = {"betas": (0.9, 0.999), "lr": 1e-4}
ENCODER_LR = 1e-5
MAX_GRAD_NORM = 1.0  # ours; theirs clips nothing
STAGES = ("forward", "backward", "optimiser")


def build_step(
    *,
    encoder: str,
    image_size: tuple[int, int],
    decoder_channels: int,
    seed: int = 0,
    small_size: tuple[int, int] | None = None,
    **network_settings: Any,
) -> ConsistencyStep:
    """Our step with random weights that follow from `seed`, on the CPU.

    `small_size` (height, width): labelled images are learned from in this size too.
    """
    torch.manual_seed(seed)
    network = build_network(
        encoder=encoder, image_size=image_size, max_depth=80.0, decoder_channels=decoder_channels,
        uncertainty_shapes_encoder=True, **network_settings,
    )  # fmt: skip
    return ConsistencyStep(
        network,
        weights={"depth_consistency": 1.0, "feature_consistency": 1.0, "strong_depth": 0.0},
        depth_loss="l1",
        tolerated_error=TOLERATED_ERROR,
        consistency_error="metres",
        confidence_weighted=True,
        min_confidence=0.0,
        max_pseudo_depth=None,
        feature_reduction="mean",
        small_size=small_size,
    )


def reference_of(step: ConsistencyStep, **changes: Any) -> ReferenceStep:
    """The authors' computation on the parameters of `step`; see ReferenceStep for `changes`."""
    return ReferenceStep(step.network, step.predictor, tolerated_error=TOLERATED_ERROR, **changes)


def random_batch(
    network: DepthNetwork,
    *,
    labeled: int,
    unlabeled: int,
    num_groups: int,
    seed: int = 0,
    rule: str = "equal",
    unlabeled_size: tuple[int, int] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Noise: "labeled", "unlabeled" (None for 0 images) and "groups" (B, N).

    Images have the network's size, unlabelled ones `unlabeled_size` if given; a fifth of the pixels
    has depth, 1 to 80 m.
    """
    generator = seeded(seed, "benchmark batch")
    size = network.image_size
    plain_size = unlabeled_size or size

    def images(count: int, size: tuple[int, int]) -> Tensor:
        return torch.rand(count, 3, *size, generator=generator).to(device)

    depth = 1 + 79 * torch.rand(labeled, 1, *size, generator=generator)
    valid = torch.rand(labeled, 1, *size, generator=generator) < 0.2
    batch: dict[str, Any] = {
        "labeled": {"image": images(labeled, size), "depth": depth.to(device),
                    "valid_mask": valid.to(device)},
        "unlabeled": None,
        "groups": None,
    }  # fmt: skip
    if unlabeled:
        batch["unlabeled"] = {
            "weak_image": images(unlabeled, plain_size),
            "strong_image": images(unlabeled, plain_size),
        }
        height, width = network.encoder.grid(plain_size)
        batch["groups"] = assign_groups(
            unlabeled, height * width, num_groups, generator=generator, rule=rule
        )
    return batch


def losses_of(
    step: nn.Module, batch: Mapping[str, Any], distributed: nn.Module | None = None
) -> dict[str, Tensor]:
    """Losses by name, of a consistency step, or of a supervised one without unlabelled images.

    `distributed` is `step` with gradients averaged over processes, where there are several.
    """
    labeled, unlabeled, groups = batch["labeled"], batch["unlabeled"], batch["groups"]
    if isinstance(step, ReferenceStep):
        return step(labeled, unlabeled, groups)
    if unlabeled is None:
        output = step.network(labeled["image"]).resized(labeled["depth"].shape[-2:])
        return step.supervised(
            depth=output.depth, log_uncertainty=output.log_uncertainty, target=labeled["depth"],
            valid_mask=labeled["valid_mask"],
        )  # fmt: skip
    tiles = pack_groups(groups, num_prefix=step.network.encoder.num_prefix)
    tiles = {"unlabeled": tiles.to(labeled["image"].device)}
    losses = (distributed or step)(labeled, unlabeled, tiles, step.network)
    return {name: loss for name, loss in losses.items() if name in TERMS}


def total_loss(
    step: nn.Module, batch: Mapping[str, Any], distributed: nn.Module | None = None
) -> Tensor:
    """Sum of all losses, each with weight 1 as in the paper."""
    losses = losses_of(step, batch, distributed)
    return weighted_sum(losses, dict.fromkeys(losses, 1.0))


class TimedStep:
    """One training step as a call, which remembers when forward, backward and optimiser ended.

    Attributes:
        marks: of each call four moments, read by `stage_seconds`.
        count_parameters: of what is trained.
    """

    def __init__(
        self,
        step: nn.Module,
        batch: Mapping[str, Any],
        *,
        precision: str,
        distributed: nn.Module | None = None,
    ):
        self.step, self.batch, self.precision = step, batch, precision
        self.distributed = distributed
        self.device = batch["labeled"]["image"].device
        self.marks: list[list[Any]] = []
        self.is_ours = not isinstance(step, ReferenceStep)
        encoder = step.network.encoder
        if self.is_ours:
            self.optimizer = build_optimizer(
                step, encoder=encoder, name="adamw", encoder_lr=ENCODER_LR, weight_decay=0.01,
                **ADAM,
            )  # fmt: skip
        else:
            inside = {id(p) for p in encoder.parameters()}
            self.optimizer = torch.optim.Adam(
                [
                    {"params": list(encoder.parameters()), "lr": ENCODER_LR},
                    {"params": [p for p in step.parameters() if id(p) not in inside]},
                ],
                **ADAM,
            )
        self.anchor = min(step.parameters(), key=torch.Tensor.numel)
        self.scaler = _MarkingScaler(self.device.type, self._mark)
        self.count_parameters = sum(p.numel() for p in step.parameters())

    def __call__(self) -> Tensor:
        """Run the step; returns its loss, detached. Gradients are freed."""
        self.marks.append([])
        self._mark()
        with autocast(self.device, self.precision):
            total = total_loss(self.step, self.batch, self.distributed)
        self._mark()
        if self.is_ours:
            self.optimizer.zero_grad(set_to_none=True)
            backward(total, self.scaler, anchor=self.anchor)
            update(self.optimizer, self.scaler, max_grad_norm=MAX_GRAD_NORM)
        else:
            self.optimizer.zero_grad(set_to_none=True)
            total.backward()
            self._mark()
            self.optimizer.step()
        self._mark()
        self.optimizer.zero_grad(set_to_none=True)
        return total.detach()

    def stage_seconds(self, *, last: int) -> dict[str, list[float]]:
        """Seconds of each stage in the last calls; empties the GPU's queue first."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        stages = {name: [] for name in STAGES}
        for moments in self.marks[-last:]:
            for name, (start, end) in zip(STAGES, pairwise(moments), strict=True):
                stages[name].append(_between(start, end))
        return stages

    def _mark(self) -> None:
        if self.device.type == "cuda":
            moment = torch.cuda.Event(enable_timing=True)
            moment.record()
        else:
            moment = time.perf_counter()
        self.marks[-1].append(moment)


class _MarkingScaler(torch.amp.GradScaler):
    """Scales nothing; marks the end of the backward pass, when it is asked to unscale."""

    def __init__(self, device_type: str, mark: Callable[[], None]):
        super().__init__(device_type, enabled=False)
        self._mark = mark

    def unscale_(self, optimizer: torch.optim.Optimizer) -> None:
        self._mark()
        super().unscale_(optimizer)


def _between(start: Any, end: Any) -> float:
    return start.elapsed_time(end) / 1e3 if hasattr(start, "elapsed_time") else end - start
