"""What the authors' checkpoint files hold: reading them, and their tensors by name and shape.

depth.pth is a ViT (lucidrains' names, under "encoder.") and a DPT decoder (Intel's names);
uncert_decoder.pth is a second fusion and head; mlp_head.pth has the predictor's MLPs.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from .encoder import NetworkError, ViTShape
from .pretrained import load_safely

# in their files, but neither an output nor a gradient ever depended on them
NEVER_USED = re.compile(
    r"(encoder\.)?(cls_token|mlp_head\..*)|(scratch\.)?refinenet4\.resConfUnit1\..*"
)


def read_weights(file: str | Path) -> dict[str, Tensor]:
    """A bare state dict in float32, without "module." prefixes."""
    weights = load_safely(file)
    if not isinstance(weights, dict) or not all(isinstance(v, Tensor) for v in weights.values()):
        raise NetworkError(
            f"{file}: not a bare state dict. The authors' weights_N folder has depth.pth, "
            "mlp_head.pth and uncert_decoder.pth; adam.pth is not read"
        )
    return {key.removeprefix("module."): value.float() for key, value in weights.items()}


def take(
    file: str | Path, weights: dict[str, Tensor], wanted: dict[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The wanted tensors; NetworkError unless all are there and fit, and no other is unknown."""
    faults = {
        "missing": [key for key in wanted if key not in weights],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} for {tuple(shape)}"
            for key, shape in wanted.items()
            if key in weights and weights[key].shape != shape
        ],
        "not known": [k for k in weights if k not in wanted and not NEVER_USED.fullmatch(k)],
    }
    if any(faults.values()):
        said = "; ".join(
            f"{len(keys)} {fault}: {', '.join(keys[:8])}" + (", ..." if len(keys) > 8 else "")
            for fault, keys in faults.items()
            if keys
        )
        raise NetworkError(
            f"{file} is not the authors' file of this network. Tensors {said}. "
            "Give the files as their trainer saved them, all of one weights_N folder"
        )
    return {key: weights[key] for key in wanted}


def shape_of(
    file: str | Path, weights: dict[str, Tensor], key: str, *, ndim: int
) -> tuple[int, ...]:
    if key not in weights or weights[key].ndim != ndim:
        raise NetworkError(
            f"{file}: tensor {key} of {ndim} dimensions is missing, from which a size of the "
            "network is read. Is it another of the authors' files?"
        )
    return weights[key].shape


def vit_tensors(vit: ViTShape, *, num_positions: int) -> dict[str, tuple[int, ...]]:
    """Every tensor of the authors' ViT that depth depends on, and its shape."""
    dim, hidden = vit.embed_dim, vit.mlp_hidden
    linears = {"to_patch_embedding.1": (dim, 3 * vit.patch_size**2)}
    norms = []
    for index in range(vit.depth):
        attention, mlp = (f"transformer.layers.{index}.{half}" for half in (0, 1))
        linears |= {
            f"{attention}.fn.to_qkv": (3 * dim, dim),
            f"{attention}.fn.to_out.0": (dim, dim),
            f"{mlp}.fn.net.0": (hidden, dim),
            f"{mlp}.fn.net.3": (dim, hidden),
        }
        norms += [f"{attention}.norm", f"{mlp}.norm"]
    return (
        {"pos_embedding": (1, num_positions, dim)}
        | {f"{name}.weight": shape for name, shape in linears.items()}
        | {f"{name}.bias": shape[:1] for name, shape in linears.items()}
        | {f"{name}.{leaf}": (dim,) for name in norms for leaf in ("weight", "bias")}
    )


def decoder_layers() -> dict[str, str]:
    """Layers of our decoder -> the authors' names in depth.pth.

    uncert_decoder.pth has names of its fusion and head without "scratch.".
    """
    layers = {f"depth_head.conv{i + 1}": f"scratch.output_conv.{2 * i}" for i in range(3)}
    for i in range(4):
        ours, theirs = f"depth_fusion.blocks.{i}", f"scratch.refinenet{i + 1}"
        layers |= {
            f"reassemble.project.{i}": f"act_postprocess{i + 1}.1",
            f"reassemble.resample.{i}": f"act_postprocess{i + 1}.2",
            f"reassemble.to_channels.{i}": f"scratch.layer{i + 1}_rn",
            f"{ours}.out_conv": f"{theirs}.out_conv",
        }
        for conv in ("conv1", "conv2"):
            layers[f"{ours}.refine_skip.{conv}"] = f"{theirs}.resConfUnit1.{conv}"
            layers[f"{ours}.refine.{conv}"] = f"{theirs}.resConfUnit2.{conv}"
    return layers
