"""Export a trained network: to ONNX, to one .safetensors file, or to a Hugging Face hub folder.

    python export.py --ckpt runs/base_train --format onnx --out depth.onnx
    python export.py --ckpt runs/base_train --format safetensors --out depth.safetensors
    python export.py --ckpt FILE.pt --format hub --out hub/depth      # nothing is uploaded

onnx: image (B, 3, H, W), RGB in [0, 1], to depth in metres and log_uncertainty, for any batch and
any multiple of the patch; compared with PyTorch before it is kept. hub: with a model card. The last
two are also what --ckpt of every script and `networks.load_network` take.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import safetensors
import torch
from torch import Tensor, nn

from networks import DepthNetwork, NetworkError, checkpoint_file, load_network
from networks.hub import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    checked_settings,
    is_hub_folder,
    model_card,
    read_exported,
    write_hub_folder,
    write_safetensors,
)
from utils.checkpoint import CheckpointError, file_sha256, load_checkpoint
from utils.command_line import run_script
from utils.config import ConfigError, saved_config

OPSET = 18  # the first whose Resize has the antialiased bicubic of the position embedding
MAX_ONNX_BYTES = 2_000_000_000  # protobuf's limit for one file, less room for the graph
# what float32 in another order of operations stays well below, and a wrong resampling does not
TOLERANCE = 1e-4


class ExportError(ValueError):
    """An export that was not made. The message names the file and the remedy."""


USER_ERRORS = (ExportError, NetworkError, CheckpointError, ConfigError)


class Source(NamedTuple):
    """What is exported. The last four are None where the file does not say."""

    file: Path
    network: DepthNetwork
    settings: dict[str, Any]
    sha256: str | None
    step: int | None
    config: dict[str, Any] | None
    run_folder: Path | None


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


def read_source(path: str) -> Source:
    """The network behind --ckpt, with what is known of where it comes from."""
    file = checkpoint_file(path)
    if file.suffix == ".safetensors":
        said = read_exported(file)
        network = load_network(file)
        return Source(file, network, said.settings, said.checkpoint_sha256, said.step, None, None)
    try:
        state = load_checkpoint(file)
    except CheckpointError as error:  # what torch says of foreign bytes fills a screen
        raise CheckpointError(str(error).splitlines()[0]) from error
    network = load_network(file)
    settings = checked_settings(state["config"]["network"], place=str(file))
    config = saved_config(state["config"], place=str(file)).toDict()
    run_folder = file.parent.parent if file.parent.name == "checkpoints" else file.parent
    return Source(file, network, settings, file_sha256(file), state["step"], config, run_folder)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it becomes `path` if all went well, else it goes away."""
    temporary = path.with_name(f"{path.name}.tmp.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ExportError(f"{path}: could not be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):  # it is not there, or its folder is none
            temporary.unlink()


def export_onnx(source: Source, out: Path) -> None:
    """Write the ONNX file, if onnxruntime computes from it what PyTorch does."""
    size = sum(x.nbytes for x in source.network.state_dict().values())
    if size > MAX_ONNX_BYTES:
        raise ExportError(
            f"{out}: {size / 1e9:.1f} GB of weights; one ONNX file holds 2 GB. "
            "--format safetensors has no such limit"
        )
    model = onnx_model(source.network)
    facts = {
        "encoder": source.settings["encoder"],
        "image_size": json.dumps(list(source.network.image_size)),
        "max_depth": json.dumps(source.network.max_depth),
        "patch_size": json.dumps(list(source.network.encoder.patch_size)),
        "input": "image (B, 3, H, W) float32, RGB in [0, 1]; H and W multiples of patch_size",
        "output": "depth (B, 1, H, W) float32 metres; log_uncertainty (if any), larger = less sure",
        "checkpoint_sha256": source.sha256,
        "step": source.step,
    }
    onnx.helper.set_model_props(model, {k: str(v) for k, v in facts.items() if v is not None})
    with whole_file(out) as temporary:
        onnx.save(model, temporary)
        check_parity(temporary, source.network)


def onnx_model(network: DepthNetwork) -> onnx.ModelProto:
    """`network` as a graph whose batch, height and width are free (multiples of the patch)."""
    patch = network.encoder.patch_size
    # an axis of length 1 in the example would be taken for a constant
    grid = [max(2, n) for n in network.encoder.grid(network.image_size)]
    image = torch.rand(2, 3, grid[0] * patch[0], grid[1] * patch[1])
    batch, rows, columns = (torch.export.Dim(n, min=1) for n in ("batch", "rows", "columns"))
    axes = {0: batch, 2: patch[0] * rows, 3: patch[1] * columns}
    names = ["depth", "log_uncertainty"][: 1 + (network.uncertainty_head is not None)]
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")  # PyTorch's about itself; the parity check decides
            program = torch.onnx.export(
                DepthOutputs(network).eval(), (image,), dynamo=True, dynamic_shapes=(axes,),
                input_names=["image"], output_names=names, opset_version=OPSET, verbose=False,
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


def export_hub(source: Source, out: Path) -> None:
    """Write the hub folder whole, or its three files into the earlier export that is there."""
    card = model_card(
        source.settings, config=source.config, checkpoint_sha256=source.sha256, step=source.step,
        scores=newest_scores(source.run_folder, source.sha256),
    )  # fmt: skip
    temporary = out.with_name(f"{out.name}.tmp.{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_hub_folder(
            temporary, source.network, source.settings, card=card,
            checkpoint_sha256=source.sha256, step=source.step,
        )  # fmt: skip
        if out.is_dir():
            for name in (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE):
                (temporary / name).replace(out / name)
        else:
            temporary.rename(out)
    except (OSError, safetensors.SafetensorError) as error:
        raise ExportError(f"{out}: could not be written ({error})") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def newest_scores(run_folder: Path | None, sha256: str | None) -> dict[str, Any] | None:
    """The newest metrics.json of evaluate.py that is of this very checkpoint, if there is one."""
    if run_folder is None:
        return None
    files = sorted(run_folder.glob("evaluation/*/metrics.json"), key=lambda f: f.stat().st_mtime)
    for file in reversed(files):
        try:
            scores = json.loads(file.read_text())
            is_of_it = scores["sha256"] == sha256
        except (ValueError, KeyError, TypeError) as error:
            raise ExportError(
                f"{file}: not what evaluate.py writes ({type(error).__name__}: {error}); delete "
                "it, or evaluate again"
            ) from error
        if is_of_it:
            return scores
    return None


def check_target(out: Path, form: str, source: Path) -> None:
    """ExportError if `out` cannot be, or must not be, what is written."""
    if form != "hub":
        if out.suffix != f".{form}":
            raise ExportError(f"--out {out}: --format {form} writes a file that ends in .{form}")
        if out.is_dir():
            raise ExportError(f"--out {out}: is a folder; give a file")
        return
    if out.exists() and not out.is_dir():
        raise ExportError(f"--out {out}: is a file; --format hub writes a folder")
    if out.is_dir() and out.resolve() == source.parent.resolve():
        raise ExportError(f"--out {out}: is the folder that is exported; give another")
    if out.is_dir() and any(out.iterdir()):
        config = (out / CONFIG_FILE).read_text() if is_hub_folder(out) else ""
        if "checkpoint_sha256" not in config:
            raise ExportError(f"--out {out}: has files that are no export; give a new folder")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--ckpt", required=True, help="run folder, checkpoint file, .safetensors or hub folder"
    )
    parser.add_argument("--format", required=True, choices=("onnx", "hub", "safetensors"))
    parser.add_argument(
        "--out", required=True, type=Path, help="file to write; of --format hub a folder"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    check_target(args.out, args.format, checkpoint_file(args.ckpt))
    source = read_source(args.ckpt)
    if args.format == "onnx":
        export_onnx(source, args.out)
    elif args.format == "safetensors":
        with whole_file(args.out) as temporary:
            write_safetensors(
                temporary, source.network, source.settings, checkpoint_sha256=source.sha256,
                step=source.step,
            )  # fmt: skip
    else:
        export_hub(source, args.out)
    size = sum(f.stat().st_size for f in ([args.out, *args.out.glob("*")]) if f.is_file())
    print(f"{source.file} (step {source.step}) written to {args.out}, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
