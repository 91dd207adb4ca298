"""Predictor heads of the feature consistency: from what a masked pass sees to what a full one does.

They are trained with the network and saved with the training state, but not part of what is
deployed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class FeaturePredictor(nn.Module):
    """Four token maps (B, N, D) -> four of the same shape, by an MLP for each tap (the paper's h).

    Args:
        embed_dim: token width D.
        hidden: width in between; None takes the paper's 4/3 D (1024 for 768).
    """

    def __init__(self, embed_dim: int, hidden: int | None = None):
        super().__init__()
        hidden = hidden or round(embed_dim * 4 / 3)
        self.mlps = nn.ModuleList(
            nn.Sequential(nn.Linear(embed_dim, hidden), nn.ReLU(), nn.Linear(hidden, embed_dim))
            for _ in range(4)
        )

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        return [mlp(tokens) for mlp, tokens in zip(self.mlps, features, strict=True)]
