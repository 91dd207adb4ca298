"""The depth network: a timm ViT read at four depths, a DPT decoder, depth and uncertainty heads.

Shape letters of this package: B images, H W pixels, h w token grid, N = h * w tokens, D token
width, C decoder channels. Images are RGB in [0, 1]; depth is metres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .depth_network import DepthNetwork, DepthOutput
from .encoder import NetworkError
from .hub import WEIGHTS_FILE, checked_settings, is_hub_folder, read_exported
from .pretrained import load_pretrained_encoder, load_safely

__all__ = [
    "DepthNetwork",
    "DepthOutput",
    "NetworkError",
    "build_network",
    "checkpoint_file",
    "load_network",
]


def build_network(
    *,
    encoder: str,
    image_size: tuple[int, int],
    max_depth: float,
    pretrained: str = "none",
    decoder_channels: int = 256,
    taps: tuple[int, ...] | None = None,
    uncertainty: bool = True,
    uncertainty_decoder: str = "full",
    uncertainty_shapes_encoder: bool = False,
    prefix_tokens: str = "drop",
) -> DepthNetwork:
    """Build the network and, if asked, load an ImageNet (or other) ViT into its encoder.

    Args:
        encoder: name of a timm ViT, e.g. "vit_base_patch16_384" or "vit_small_patch14_dinov2".
        image_size: (height, width) in pixels that the position embedding is laid out for; the
            patch size must divide both.
        max_depth: metres; the depth head is sigmoid * max_depth.
        pretrained: "none", "timm" (downloads), or a .safetensors / .pth file.
        decoder_channels: width C of the DPT decoder; the paper's is 256.
        taps: four 0-based encoder blocks; None spaces them evenly, ending at the last.
        uncertainty: whether to build the uncertainty decoder.
        uncertainty_decoder: "full", a fusion and head of its own (the paper's), or "light", a
            narrow head on the depth decoder's fused map.
        uncertainty_shapes_encoder: whether its loss reaches encoder and reassembly.
        prefix_tokens: "drop" class and register tokens, or "per_group": keep them, a copy for each
            group of tokens.

    Raises:
        NetworkError: unknown or unsupported encoder, image size that the patch does not divide,
            weights that are missing or do not fit.
    """
    network = DepthNetwork(
        encoder=encoder,
        image_size=tuple(image_size),
        max_depth=max_depth,
        decoder_channels=decoder_channels,
        taps=taps,
        uncertainty=uncertainty,
        uncertainty_decoder=uncertainty_decoder,
        uncertainty_shapes_encoder=uncertainty_shapes_encoder,
        prefix_tokens=prefix_tokens,
    )
    if pretrained != "none":
        load_pretrained_encoder(network.encoder, encoder, source=pretrained)
    # one layout end to end: the decoder's convolutions want it, and tokens are in it already
    return network.to(memory_format=torch.channels_last)


def load_network(path: str | Path, *, device: str | torch.device = "cpu") -> DepthNetwork:
    """The trained network of a checkpoint or an export, in eval mode, ready for images in [0, 1].

    Args:
        path: a checkpoint file, a run folder (its best checkpoint, else its last), or what
            export.py wrote: a .safetensors file or a hub folder.

    Raises:
        NetworkError: no network there, or not one of ours.
    """
    file = checkpoint_file(path)
    if file.suffix == ".safetensors":
        settings, weights = read_exported(file).settings, load_safely(file)
    else:
        settings, weights = _read_checkpoint(file)
    network = build_network(**settings)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise NetworkError(
            f"{file}: its weights do not fit its own configuration: {error}"
        ) from error
    return network.to(device).eval()


def checkpoint_file(path: str | Path) -> Path:
    """The file of a network that `path` means.

    Itself, a run folder's best.pt, else its last.pt, or a hub folder's model.safetensors.
    """
    path = Path(path)
    if path.is_file():
        return path
    candidates = [path / "checkpoints" / name for name in ("best.pt", "last.pt")]
    if is_hub_folder(path):
        candidates.append(path / WEIGHTS_FILE)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise NetworkError(
        f"{path}: neither a checkpoint file nor a run folder that has one, nor an export of it"
    )


def _read_checkpoint(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Settings and weights of the network in a checkpoint."""
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
        settings, weights = checkpoint["config"]["network"], checkpoint["network"]
    except Exception as error:  # torch.load raises whatever the damaged bytes lead it to
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        raise NetworkError(f"{file}: not a checkpoint of this project ({told})") from error
    return checked_settings(settings, place=str(file)), weights
