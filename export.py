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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import safetensors

from export_onnx import ExportError, check_parity, check_size, describe, onnx_model
from networks import DepthNetwork, NetworkError, checkpoint_file, load_network
from networks.hub import (
    CARD_FILE,
    CONFIG_FILE,
    WEIGHTS_FILE,
    checked_settings,
    is_hub_folder,
    read_exported,
    write_hub_folder,
    write_safetensors,
)
from networks.model_card import model_card
from utils.checkpoint import CheckpointError, file_sha256, load_checkpoint
from utils.command_line import run_script
from utils.config import ConfigError, saved_config

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


def read_source(path: str) -> Source:
    """The network behind --ckpt, with what is known of where it comes from."""
    file = checkpoint_file(path)
    if file.suffix == ".safetensors":
        said = read_exported(file)
        network = load_network(file)
        return Source(file, network, said.settings, said.checkpoint_sha256, said.step, None, None)
    state = load_checkpoint(file)
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


def write_onnx(source: Source, out: Path) -> None:
    """Write the ONNX file, if onnxruntime computes from it what PyTorch does."""
    check_size(source.network, out)
    model = onnx_model(source.network)
    describe(
        model, source.network, encoder=source.settings["encoder"],
        checkpoint_sha256=source.sha256, step=source.step,
    )  # fmt: skip
    with whole_file(out) as temporary:
        onnx.save(model, temporary)
        check_parity(temporary, source.network)


def write_hub(source: Source, out: Path) -> None:
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
        write_onnx(source, args.out)
    elif args.format == "safetensors":
        with whole_file(args.out) as temporary:
            write_safetensors(
                temporary, source.network, source.settings, checkpoint_sha256=source.sha256,
                step=source.step,
            )  # fmt: skip
    else:
        write_hub(source, args.out)
    size = sum(f.stat().st_size for f in ([args.out, *args.out.glob("*")]) if f.is_file())
    print(f"{source.file} (step {source.step}) written to {args.out}, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
