"""The authors' training step, written from what is known of it: what ours is measured against.

A module; `benchmarks/agreement.py` shows that it computes what our step does. The arithmetic is
that of the released code (MaskingDepth, Baek et al. 2024); the lines are ours. What is theirs, and
slower or larger than it must be:

- all N x N logits of all heads are kept, and those of other groups overwritten with -10;
- the pass over weak views builds a graph, of which nothing is used;
- the 1x1 convolution of a fusion block stands behind its upsampling;
- losses select pixels by boolean indexing, which waits for a GPU;
- Adam without fused kernels.

Theirs also permutes the tokens before masking; here the mask takes them in their order, which is
less work. Depth is a sigmoid in the precision of the pass, uncertainty as the network has it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from networks import DepthNetwork
from networks.dpt import FusionBlock, Head

THEIR_LOGIT = -10.0


class ReferenceStep(nn.Module):
    """Labelled and unlabelled batch -> named, unweighted losses, computed as the authors do.

    Same keys as `consistency_train.ConsistencyStep` has with l1, errors in metres, confidence
    weights and the mean over channels. Parameters are those of `network` and `predictor`: shared,
    so that weights and gradients of the two steps can be compared by name.

    Args:
        foreign_logit: of a token in another group; -inf makes groups disjoint, as ours are.
        graph_in_weak_pass: False runs weak views without a graph, as ours does.
        contiguous: True forces (B, C, H, W) order on the decoder's maps. By default they are as
            the code leaves them: token maps seen as pictures already are channels_last, and
            PyTorch's convolutions pass that on.
        labeled_last: computes the labelled images last, so that their backward pass comes first.
    """

    def __init__(
        self,
        network: DepthNetwork,
        predictor: nn.Module | None,
        *,
        tolerated_error: float,
        foreign_logit: float = THEIR_LOGIT,
        graph_in_weak_pass: bool = True,
        contiguous: bool = False,
        labeled_last: bool = False,
    ):
        super().__init__()
        self.network, self.predictor = network, predictor
        self.tolerated_error = tolerated_error
        self.foreign_logit = foreign_logit
        self.graph_in_weak_pass = graph_in_weak_pass
        self.contiguous = contiguous
        self.labeled_last = labeled_last

    def forward(
        self, labeled: dict, unlabeled: dict | None, groups: Tensor | None
    ) -> dict[str, Tensor]:
        """`groups` (B, N) long, of the strong views; `unlabeled` None is the supervised step."""
        if unlabeled is None:
            return self._from_labels(labeled)
        if self.labeled_last:
            return {**self._consistency(unlabeled, groups), **self._from_labels(labeled)}
        return {**self._from_labels(labeled), **self._consistency(unlabeled, groups)}

    def _from_labels(self, labeled: dict) -> dict[str, Tensor]:
        depth, log_uncertainty, _ = self._all(labeled["image"])
        return self._supervised(depth, log_uncertainty, labeled["depth"], labeled["valid_mask"])

    def _consistency(self, unlabeled: dict, groups: Tensor) -> dict[str, Tensor]:
        with torch.set_grad_enabled(self.graph_in_weak_pass):
            weak_depth, weak_uncertainty, weak_tokens = self._all(unlabeled["weak_image"])
        tokens = self._encode(unlabeled["strong_image"], groups)
        strong_depth = self._depth(self._reassemble(tokens, unlabeled["strong_image"]))
        weight = (
            torch.ones_like(weak_depth) if weak_uncertainty is None else (-weak_uncertainty).exp()
        ).detach()
        error = (strong_depth - weak_depth.detach()).abs()
        losses = {"depth_consistency": (weight * error).mean()}
        if self.predictor is not None:
            losses["feature_consistency"] = self._features_agree(tokens, weak_tokens)
        return losses

    def _all(self, image: Tensor) -> tuple[Tensor, Tensor | None, list[Tensor]]:
        """Depth in metres, uncertainty by a second whole decoder, tokens; of an ordinary pass."""
        tokens = self._encode(image, None)
        maps = self._reassemble(tokens, image)
        net = self.network
        uncertainty = None
        if net.uncertainty_fusion is not None:
            own = maps if net.uncertainty_shapes_encoder else [x.detach() for x in maps]
            logits = self._decode(net.uncertainty_fusion.blocks, net.uncertainty_head, own)
            uncertainty = net.uncertainty_activation(logits)
        return self._depth(maps), uncertainty, tokens

    def _encode(self, image: Tensor, groups: Tensor | None) -> list[Tensor]:
        """Four token maps; groups are told apart by an N x N mask over all tokens."""
        encoder, vit = self.network.encoder, self.network.encoder.vit
        image = (image - encoder.image_mean) / encoder.image_std
        rows, columns = encoder.grid(tuple(image.shape[-2:]))
        patches = image.unflatten(3, (columns, -1)).unflatten(2, (rows, -1))  # B 3 h p w p
        patches = patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)  # B N (p p 3)
        projection = vit.patch_embed.proj
        weight = projection.weight.permute(0, 2, 3, 1).flatten(1)
        tokens = F.linear(patches, weight, projection.bias) + vit.pos_embed
        foreign = None
        if groups is not None:
            groups = groups.to(image.device)
            foreign = (groups[:, :, None] != groups[:, None, :])[:, None]  # (B, 1, N, N)
        tapped = []
        for index, block in enumerate(vit.blocks):
            tokens = tokens + self._attend(block.norm1(tokens), block.attn, foreign)
            tokens = tokens + block.mlp(block.norm2(tokens))
            if index in encoder.taps:
                tapped.append(tokens)
        return tapped

    def _attend(self, x: Tensor, attention: nn.Module, foreign: Tensor | None) -> Tensor:
        """All logits, all shares, all values: (B, heads, N, N) is kept for the backward pass."""
        query, key, value = (
            part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
            for part in attention.qkv(x).chunk(3, dim=-1)
        )
        logits = query @ key.transpose(-2, -1) * attention.scale
        if foreign is not None:
            logits = logits.masked_fill(foreign, self.foreign_logit)
        attended = logits.softmax(dim=-1) @ value  # under autocast the softmax is in float32
        return attention.proj(attended.transpose(1, 2).flatten(2))

    def _reassemble(self, tokens: list[Tensor], image: Tensor) -> list[Tensor]:
        grid = self.network.encoder.grid(tuple(image.shape[-2:]))
        parts, maps = self.network.reassemble, []
        for x, project, resample, to_channels in zip(
            tokens, parts.project, parts.resample, parts.to_channels, strict=True
        ):
            picture = x.transpose(1, 2).unflatten(2, grid)
            picture = picture.contiguous() if self.contiguous else picture
            maps.append(to_channels(resample(project(picture))))
        return maps

    def _depth(self, maps: list[Tensor]) -> Tensor:
        net = self.network
        return net.max_depth * self._decode(net.depth_fusion.blocks, net.depth_head, maps).sigmoid()

    def _decode(self, blocks: nn.ModuleList, head: Head, maps: list[Tensor]) -> Tensor:
        """Coarse to fine, then the head: (B, 1, H, W) before the last activation."""
        sizes = [(2 * maps[0].shape[2], 2 * maps[0].shape[3]), *(x.shape[-2:] for x in maps[:3])]
        x = maps[3]
        for index in (3, 2, 1, 0):
            block: FusionBlock = blocks[index]
            if index < 3:
                x = x + block.refine_skip(maps[index])
            x = block.out_conv(_double(block.refine(x), sizes[index]))
        patch = self.network.encoder.patch_size[0]
        x = head.conv1(x)
        size = (maps[2].shape[2] * patch, maps[2].shape[3] * patch)
        return head.conv3(head.conv2(_double(x, size)).relu())

    def _supervised(
        self, depth: Tensor, log_uncertainty: Tensor | None, target: Tensor, valid: Tensor
    ) -> dict[str, Tensor]:
        size = target.shape[-2:]
        depth = F.interpolate(depth, size, mode="bilinear", align_corners=False)
        error = (depth[valid] - target[valid]).abs()
        losses = {"depth": error.mean()}
        if log_uncertainty is not None:
            u = F.interpolate(log_uncertainty, size, mode="bilinear", align_corners=False)[valid]
            loss = error.detach() * (-u).exp() + self.tolerated_error * u
            losses["uncertainty"] = loss.mean()
        return losses

    def _features_agree(self, strong: list[Tensor], weak: list[Tensor]) -> Tensor:
        """Mean over taps and all elements of (unit prediction - unit target)^2."""
        terms = [
            F.mse_loss(F.normalize(mlp(s), dim=-1), F.normalize(w.detach(), dim=-1))
            for mlp, s, w in zip(self.predictor.mlps, strong, weak, strict=True)
        ]
        return sum(terms) / len(terms)


def _double(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
