"""Moving average of a network's weights, or the network itself where no average is asked for."""

from __future__ import annotations

import copy

import torch
from torch import nn


class WeightAverage:
    """Keeps avg = decay * avg + (1 - decay) * weights; `network` is what to evaluate and deploy.

    With decay 0 nothing is kept and `network` is the trained network itself.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.trained = network
        self.decay = decay
        self.average = copy.deepcopy(network).requires_grad_(False) if decay > 0 else None
        self.num_updates = 0

    @property
    def network(self) -> nn.Module:
        return self.trained if self.average is None else self.average

    @torch.no_grad()
    def update(self, finite: torch.Tensor) -> None:
        """Take in the weights as they are now; the first time they are copied.

        Args:
            finite: scalar bool tensor: whether a step was made. If not, the average stays as it is.
        """
        if self.average is None:
            return
        averages, weights = list(self.average.parameters()), list(self.trained.parameters())
        if self.num_updates == 0:
            torch._foreach_copy_(averages, weights)
        elif finite.device.type == "cpu":  # known at once
            if finite:
                torch._foreach_lerp_(averages, weights, 1 - self.decay)
        else:
            change = torch._foreach_sub(weights, averages)
            torch._foreach_mul_(change, (1 - self.decay) * finite)
            torch._foreach_add_(averages, change)
        self.num_updates += 1

    def resume(self, step: int) -> None:
        """Go on as if `step` updates had been made; the first one of a new average copies."""
        self.num_updates = step
