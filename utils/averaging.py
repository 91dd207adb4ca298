"""Moving average of a network's weights, or the network itself where no average is asked for."""

from __future__ import annotations

from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAverage:
    """Keeps avg = decay * avg + (1 - decay) * weights; `network` is what to evaluate and deploy.

    With decay 0 nothing is kept and `network` is the trained network itself.
    """

    def __init__(self, network: nn.Module, decay: float):
        self.trained = network
        self.average = None
        if decay > 0:
            self.average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @property
    def network(self) -> nn.Module:
        return self.trained if self.average is None else self.average.module

    def update(self) -> None:
        """Take in the weights of the step that has just been made."""
        if self.average is not None:
            self.average.update_parameters(self.trained)

    def resume(self, step: int) -> None:
        """Go on as if `step` updates had been made; the first one of a new average copies."""
        if self.average is not None:
            self.average.n_averaged.fill_(step)
