"""The authors' released checkpoint files -> our network, with the authors' outputs.

Their trainer writes depth.pth, mlp_head.pth and uncert_decoder.pth: bare state dicts that do not
hold image size, heads, taps or maximum depth, so these are asked for; every other size is read off
the tensors. An imported network differs from one of ours in two things: it takes RGB in [0, 1]
without normalisation, and a ReLU ends its uncertainty. Format: KU-CVLAB/MaskingDepth, afe905b.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .authors_files import decoder_layers, read_weights, shape_of, take, vit_tensors
from .depth_network import DepthNetwork
from .encoder import NetworkError, ViTEncoder, ViTShape
from .predictor import FeaturePredictor
from .pretrained import authors_vit_to_timm


def import_checkpoint(
    *,
    depth: str | Path,
    mlp_head: str | Path | None = None,
    uncert_decoder: str | Path | None = None,
    image_size: tuple[int, int],
    num_heads: int,
    taps: tuple[int, ...],
    max_depth: float,
) -> DepthNetwork:
    """The authors' network in eval mode, ready for images in [0, 1].

    Args:
        depth: their depth.pth.
        mlp_head: their mlp_head.pth. Depth does not need it, so it does not join the network's
            parameters: it is left as `network.imported_predictor` (None without the file).
        uncert_decoder: their uncert_decoder.pth of the same training; without it the network has
            no log_uncertainty.
        image_size: (height, width) in pixels that depth.pth was trained at. Only the number of
            tokens can be checked: [192, 640] and [384, 320] have as many.
        num_heads: attention heads; theirs are 64 wide, 12 of them in ViT-B and 16 in ViT-L.
        taps: four 0-based blocks; theirs are (2, 5, 8, 11) of ViT-B and (5, 11, 17, 23) of ViT-L.
            Blocks behind the last are not built.
        max_depth: metres; 80 for their KITTI networks and 10 for NYU.

    Raises:
        NetworkError: a file that cannot be read; a tensor that is missing, does not fit or is not
            known, by its name; an image size of another number of tokens.
    """
    weights = read_weights(depth)
    vit = _vit_shape(depth, weights, num_heads, prefix="encoder.")
    with torch.device("meta"):  # shapes alone: every value comes from the files
        network = DepthNetwork(
            encoder=vit,
            image_size=tuple(image_size),
            max_depth=max_depth,
            taps=tuple(taps),
            uncertainty=uncert_decoder is not None,
            uncertainty_shapes_encoder=True,
            uncertainty_activation="relu",
            **_decoder_sizes(depth, weights),
        )
    state = _depth_state(depth, weights, network, vit)
    if uncert_decoder is not None:
        state |= _uncertainty_state(uncert_decoder, network)
    network.load_state_dict(state, assign=True)
    predictor = None if mlp_head is None else import_predictor(mlp_head, embed_dim=vit.embed_dim)
    # past nn.Module's registration: its tensors are no part of a depth network's state
    object.__setattr__(network, "imported_predictor", predictor)
    return network.to(memory_format=torch.channels_last).eval()


def import_predictor(mlp_head: str | Path, *, embed_dim: int | None = None) -> FeaturePredictor:
    """The authors' mlp_head.pth; with `embed_dim` it must be of that token width.

    Raises:
        NetworkError: as `import_checkpoint`.
    """
    weights = read_weights(mlp_head)
    hidden, width = shape_of(mlp_head, weights, "mlps.0.0.weight", ndim=2)
    with torch.device("meta"):
        predictor = FeaturePredictor(embed_dim or width, hidden)
    wanted = {key: value.shape for key, value in predictor.state_dict().items()}
    predictor.load_state_dict(take(mlp_head, weights, wanted), assign=True)
    return predictor.eval()


def import_vit(
    vit: str | Path, *, image_size: tuple[int, int], num_heads: int, taps: tuple[int, ...]
) -> ViTEncoder:
    """The authors' bare ViT file laid out for `image_size` as they do: the start of their training.

    Unlike `network.pretrained` (which normalises the image and resamples positions as timm does)
    the encoder takes [0, 1] as it is, and positions are plainly bilinear, without antialiasing.

    Raises:
        NetworkError: as `import_checkpoint`, or positions on no square grid.
    """
    weights = read_weights(vit)
    shape = _vit_shape(vit, weights, num_heads)
    with torch.device("meta"):
        encoder = ViTEncoder(shape, tuple(image_size), tuple(taps))
    positions = weights["pos_embedding"]
    side = math.isqrt(positions.shape[1] - 1)
    if side**2 != positions.shape[1] - 1:
        raise NetworkError(
            f"{vit}: {positions.shape[1] - 1} patch positions are no square grid. A depth.pth is "
            "already laid out for its images: import_checkpoint reads it"
        )
    weights = take(vit, weights, vit_tensors(shape, num_positions=side**2 + 1))
    square = positions[:, 1:].unflatten(1, (side, side)).permute(0, 3, 1, 2)
    resized = F.interpolate(square, encoder.grid(image_size), mode="bilinear", align_corners=False)
    patches = resized.flatten(2).transpose(1, 2)
    weights["pos_embedding"] = torch.cat([positions[:, :1], patches], dim=1)
    encoder.load_state_dict(_encoder_state(weights, encoder), assign=True)
    return encoder.eval()


def _vit_shape(
    file: str | Path, weights: dict[str, Tensor], num_heads: int, prefix: str = ""
) -> ViTShape:
    """Sizes of the ViT whose tensors are called `prefix` + their name."""
    embed_dim = shape_of(file, weights, f"{prefix}pos_embedding", ndim=3)[2]
    flat_patch = shape_of(file, weights, f"{prefix}to_patch_embedding.1.weight", ndim=2)[1]
    layers = f"{prefix}transformer.layers."
    mlp_hidden = shape_of(file, weights, f"{layers}0.1.fn.net.0.weight", ndim=2)[0]
    blocks = [re.match(rf"{re.escape(layers)}(\d+)\.", key) for key in weights]
    if num_heads < 1 or embed_dim % num_heads:
        raise NetworkError(
            f"num_heads = {num_heads} does not divide the token width {embed_dim} of {file}; the "
            f"authors' heads are 64 wide: num_heads = {max(1, embed_dim // 64)}"
        )
    return ViTShape(
        patch_size=max(1, math.isqrt(flat_patch // 3)),
        embed_dim=embed_dim,
        depth=1 + max(int(block[1]) for block in blocks if block),
        num_heads=num_heads,
        mlp_hidden=mlp_hidden,
    )


def _decoder_sizes(file: str | Path, weights: dict[str, Tensor]) -> dict[str, object]:
    """The arguments of DepthNetwork that describe its decoder."""

    def channels(layer: str) -> int:
        return shape_of(file, weights, f"{layer}.weight", ndim=4)[0]

    return {
        "decoder_channels": channels("scratch.layer1_rn"),
        "reassemble_widths": tuple(channels(f"act_postprocess{i}.1") for i in (1, 2, 3, 4)),
        "head_widths": (channels("scratch.output_conv.0"), channels("scratch.output_conv.2")),
    }


def _require_tokens(file: str | Path, num_tokens: int, encoder: ViTEncoder) -> None:
    """NetworkError unless depth.pth has the image's number of tokens, with the sizes that do."""
    if encoder.patch_size != (16, 16):
        raise NetworkError(
            f"{file}: patches of {list(encoder.patch_size)} pixels. The authors' decoder ends at "
            "16 times the token grid, which is the image's size for patches of 16 only"
        )
    h, w = encoder.grid(encoder.image_size)
    if num_tokens == h * w:
        return
    grids = [(n, num_tokens // n) for n in range(1, num_tokens + 1) if num_tokens % n == 0]
    grids.sort(key=lambda grid: abs(math.log(grid[0] / grid[1] * w / h)))
    raise NetworkError(
        f"{file} was trained on {num_tokens} tokens; image_size {list(encoder.image_size)} has "
        f"{h} x {w} = {h * w}. Of the nearest form are {[[16 * a, 16 * b] for a, b in grids[:4]]}"
    )


def _depth_state(
    file: str | Path, weights: dict[str, Tensor], network: DepthNetwork, vit: ViTShape
) -> dict[str, Tensor]:
    """The network's state, uncertainty apart, from the tensors of depth.pth."""
    num_positions = shape_of(file, weights, "encoder.pos_embedding", ndim=3)[1]
    _require_tokens(file, num_positions - 1, network.encoder)
    encoder = vit_tensors(vit, num_positions=num_positions)
    names = _decoder_names(network, ("reassemble.", "depth_"))
    own = network.state_dict()
    wanted = {f"encoder.{key}": shape for key, shape in encoder.items()}
    taken = take(file, weights, wanted | {theirs: own[key].shape for key, theirs in names.items()})
    state = _encoder_state({key: taken[f"encoder.{key}"] for key in encoder}, network.encoder)
    return {f"encoder.{key}": value for key, value in state.items()} | {
        key: taken[theirs] for key, theirs in names.items()
    }


def _uncertainty_state(file: str | Path, network: DepthNetwork) -> dict[str, Tensor]:
    names = _decoder_names(network, ("uncertainty_",))
    own = network.state_dict()
    wanted = {theirs: own[key].shape for key, theirs in names.items()}
    taken = take(file, read_weights(file), wanted)
    return {key: taken[theirs] for key, theirs in names.items()}


def _decoder_names(network: DepthNetwork, parts: tuple[str, ...]) -> dict[str, str]:
    """Tensors of ours whose name starts with one of `parts` -> the authors' names."""
    layers = decoder_layers()
    names = {}
    for key in network.state_dict():
        if key.startswith(parts):
            layer, leaf = key.rsplit(".", 1)
            theirs = layers[layer.replace("uncertainty_", "depth_")]
            if key.startswith("uncertainty_"):
                theirs = theirs.removeprefix("scratch.")
            names[key] = f"{theirs}.{leaf}"
    return names


def _encoder_state(weights: dict[str, Tensor], encoder: ViTEncoder) -> dict[str, Tensor]:
    """The encoder's whole state from the authors' ViT tensors."""
    state = authors_vit_to_timm(weights)
    state["pos_embed"] = state["pos_embed"][:, 1:]  # the first is the class token's
    return {f"vit.{key}": state[key].contiguous() for key in encoder.vit.state_dict()} | {
        "image_mean": torch.zeros(1, 3, 1, 1),  # images stay in [0, 1]
        "image_std": torch.ones(1, 3, 1, 1),
    }
