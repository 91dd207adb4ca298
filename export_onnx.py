"""A depth network as an ONNX graph, and the comparison that decides whether it is kept (ours)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from networks import DepthNetwork

OPSET = 18  # the first whose Resize has the antialiased bicubic of the position embedding
MAX_ONNX_BYTES = 2_000_000_000  # protobuf's limit for one file, less room for the graph
# what float32 in another order of operations stays well below, and a wrong resampling does not
TOLERANCE = 1e-4


class ExportError(ValueError):
    """An export that was not made. The message names the file and the remedy."""


class DepthOutputs(nn.Module):
    """The network with the outputs of the ONNX file, by position: depth, log_uncertainty if any."""

    def __init__(self, network: DepthNetwork):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        rows, columns = self.network.encoder.patch_size
        # ONNX knows no assertion; a reshape that fails is one. Without it a size that the patch
        # does not divide would lose its last pixels in silence
        image = image.unflatten(2, (-1, rows)).flatten(2, 3)
        image = image.unflatten(3, (-1, columns)).flatten(3, 4)
        output = self.network(image)
        return tuple(x for x in (output.depth, output.log_uncertainty) if x is not None)


def check_size(network: DepthNetwork, out: Path) -> None:
    """ExportError if the weights are more than the one ONNX file `out` can hold."""
    size = sum(x.nbytes for x in network.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise ExportError(
            f"{out}: {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB. "
            "--format safetensors has no such limit"
        )


def example_and_axes(network: DepthNetwork) -> tuple[Tensor, dict[int, Any]]:
    """An image (2, 3, H, W) to trace with, and those of its axes that the graph leaves free: the
    batch, and height and width in whole patches."""
    patch = network.encoder.patch_size
    # an axis of length 1 in the example would be taken for a constant
    grid = [max(2, n) for n in network.encoder.grid(network.image_size)]
    image = torch.rand(2, 3, grid[0] * patch[0], grid[1] * patch[1])
    batch, rows, columns = (torch.export.Dim(n, min=1) for n in ("batch", "rows", "columns"))
    return image, {0: batch, 2: patch[0] * rows, 3: patch[1] * columns}


def output_names(network: DepthNetwork) -> list[str]:
    """Names of the graph's outputs, in the order of `DepthOutputs`."""
    return ["depth", "log_uncertainty"][: 1 + (network.uncertainty_head is not None)]


def onnx_model(network: DepthNetwork) -> onnx.ModelProto:
    """`network` as a graph whose batch, height and width are free (multiples of the patch).

    Raises:
        ExportError: the exporter of PyTorch cannot express it.
    """
    image, axes = example_and_axes(network)
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # PyTorch's about itself; the parity check decides
            program = torch.onnx.export(
                DepthOutputs(network).eval(), (image,), dynamo=True, dynamic_shapes=(axes,),
                input_names=["image"], output_names=output_names(network),
                opset_version=OPSET, verbose=False,
            )  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        told = str(error).strip().splitlines()[0]
        raise ExportError(
            f"this network cannot be written as ONNX ({told}); --format safetensors can"
        ) from error
    model = program.model_proto
    # the exporter notes lines and paths of this machine's source at every node
    graph = model.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("metadata_props")
    return model


def describe(
    model: onnx.ModelProto,
    network: DepthNetwork,
    *,
    encoder: str,
    checkpoint_sha256: str | None,
    step: int | None,
) -> None:
    """Write into the metadata of `model` what its input and output are and where it comes from.

    Args:
        encoder: name of the timm ViT.
        checkpoint_sha256, step: of the checkpoint it comes from; None is left out.
    """
    facts = {
        "encoder": encoder,
        "image_size": json.dumps(list(network.image_size)),
        "max_depth": json.dumps(network.max_depth),
        "patch_size": json.dumps(list(network.encoder.patch_size)),
        "input": "image (B, 3, H, W) float32, RGB in [0, 1]; H and W multiples of patch_size",
        "output": "depth (B, 1, H, W) float32 metres; log_uncertainty (if any), larger = less sure",
        "checkpoint_sha256": checkpoint_sha256,
        "step": step,
    }
    onnx.helper.set_model_props(model, {k: str(v) for k, v in facts.items() if v is not None})


@torch.inference_mode()
def check_parity(file: Path, network: DepthNetwork) -> None:
    """Compare onnxruntime on `file` with `network`, and print the largest absolute differences.

    At the network's own size, with another batch, and at a taller and narrower size, where the
    position embedding is resampled. Depth counts as a share of max_depth, log_uncertainty in
    shares of its largest value (of 1, if that is less).

    Raises:
        ExportError: a difference is above TOLERANCE, or not a number.
    """
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    patch, (rows, columns) = network.encoder.patch_size, network.encoder.grid(network.image_size)
    other = ((rows + max(1, rows // 2)) * patch[0], max(1, columns // 2) * patch[1])
    for batch, size in ((1, network.image_size), (3, network.image_size), (1, other)):
        image = torch.rand(batch, 3, *size, generator=generator)
        expected = DepthOutputs(network)(image)
        found = session.run(None, {"image": image.numpy()})
        told = f"parity with PyTorch on {batch} x {size[0]} x {size[1]}:"
        worst = []
        names = [output.name for output in session.get_outputs()]
        for name, one, two in zip(names, expected, found, strict=True):
            scale = network.max_depth if name == "depth" else max(1.0, float(one.abs().max()))
            worst.append(float(np.abs(one.numpy() - two).max()) / scale)
            told += f" {name} {worst[-1]:.1e}"
        print(told, flush=True)
        if not all(difference <= TOLERANCE for difference in worst):
            raise ExportError(
                f"the ONNX graph differs from the network by more than {TOLERANCE:.0e} ({told}); "
                "nothing was written. Another version of torch, onnx or onnxruntime may do better"
            )
