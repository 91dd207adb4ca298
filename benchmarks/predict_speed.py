"""Pictures a second of predict.py, folder in, PNG out; a plain loop against ours, in turn.

    python benchmarks/predict_speed.py --out benchmarks/results/predict_speed_cpu.json

Pictures of 375 x 1242 pixels lie in a temporary folder; depth, colour and uncertainty are written
of each. An untrained ViT-S/16 at 192 x 640. Variants:

    loop          read, predict alone, write three files, one picture after another; float32
    loop_bf16     the same in bf16
    ours          what predict.py runs: threads read ahead and write, the network has batches
    ours_bf16     the same with --precision bf16, its check of the first picture included
    network       the network alone on the same batches; network_bf16
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))

import predict
from benchmarks.interleaved import seconds_in_turn, summary, times_faster, write_result
from datasets.media import Source, find_pictures, picture_shot
from datasets.prediction_files import write_depth_png
from networks import DepthNetwork, build_network
from prediction_output import Output, open_output, write_png, write_uncertainty
from utils.optimization import autocast
from utils.video import coloured, depth_scale

SIZE = (375, 1242)


def write_pictures(root: Path, count: int) -> None:
    """Smooth pictures with noise, as PNGs: a camera's files are as hard to decode."""
    rng = np.random.default_rng(0)
    for number in range(count):
        rows, columns = np.linspace(0, 200, SIZE[0])[:, None], np.linspace(0, 6, SIZE[1])[None]
        waves = 100 + 60 * np.sin(columns + number)
        picture = np.stack([rows + 0 * waves, waves + 0 * rows, (rows + waves) / 2], axis=-1)
        noisy = (picture + rng.normal(0, 8, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / f"{number:04d}.png")


def loop(network: DepthNetwork, source: Source, output: Output, precision: str) -> None:
    """What anyone would write first."""
    device = next(network.parameters()).device
    for name, path in source.items():
        shot = picture_shot(name, path, image_size=network.image_size, skip_bad=False)
        with torch.inference_mode(), autocast(device, precision):
            one = network(shot.network_input[None].to(device))
        one = one.resized((shot.picture.height, shot.picture.width))
        depth, unsure = one.depth[0, 0].cpu().numpy(), one.log_uncertainty[0, 0].cpu().numpy()
        with output.unfinished(output.path("depth", name)) as file:
            write_depth_png(file, depth, units_per_metre=output.units_per_metre)
        with output.unfinished(output.path("colour", name)) as file:
            write_png(file, coloured(depth, depth_scale(depth), unit="m"))
        with output.unfinished(output.path("uncertainty", name)) as file:
            write_uncertainty(file, unsure)


def ours(network: DepthNetwork, source: Source, output: Output, words: argparse.Namespace) -> None:
    """What predict.py runs once everything is open."""
    device = next(network.parameters()).device
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        predict.run(
            network, source, output, args=words, image_size=network.image_size, device=device
        )


def network_alone(
    network: DepthNetwork, source: Source, batch_size: int, precision: str
) -> Callable[[], Any]:
    """Its batches are ready in memory."""
    device = next(network.parameters()).device
    inputs = [
        picture_shot(*item, image_size=network.image_size, skip_bad=False).network_input
        for item in source.items()
    ]
    batches = torch.stack(inputs).to(device).split(batch_size)

    def run() -> None:
        with torch.inference_mode(), autocast(device, precision):
            for image in batches:
                network(image)

    return run


def same_files(one: Path, other: Path) -> int:
    """How many depth files of two folders agree within one unit, all of them; else an error.

    Not bit for bit: a batch of another length may round the last bit otherwise.
    """
    files = sorted((one / "depth").glob("*.png"))
    for file in files:
        a, b = (
            np.asarray(Image.open(folder / "depth" / file.name), np.int64)
            for folder in (one, other)
        )
        if np.abs(a - b).max() > 1:
            raise SystemExit(f"{file.name}: the loop and predict.py wrote different depths")
    return len(files)


def main(arguments: list[str] | None = None) -> int:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("--pictures", type=int, default=6)
    words.add_argument("--rounds", type=int, default=5)
    words.add_argument("--batch-size", type=int, default=3)
    words.add_argument("--encoder", default="vit_small_patch16_224")
    words.add_argument("--image-size", type=int, nargs=2, default=[192, 640], metavar=("H", "W"))
    words.add_argument("--decoder-channels", type=int, default=256)
    words.add_argument("--out", type=Path)
    args = words.parse_args(arguments)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = build_network(
        encoder=args.encoder, image_size=tuple(args.image_size), max_depth=80.0,
        decoder_channels=args.decoder_channels,
    ).to(device).eval()  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        pictures = Path(folder) / "pictures"
        pictures.mkdir()
        write_pictures(pictures, args.pictures)
        source = find_pictures(str(pictures))
        variants: dict[str, Callable[[], Any]] = {}
        for precision, end in (("fp32", ""), ("bf16", "_bf16")):
            line = ["--ckpt", "-", "--input", str(pictures), "--precision", precision,
                    "--batch-size", str(args.batch_size), "--out"]  # fmt: skip
            own = predict.parse_arguments([*line, f"{folder}/ours{end}"])
            plain = predict.parse_arguments([*line, f"{folder}/loop{end}"])
            own_output, output = (open_output(w, network, source, {}) for w in (own, plain))
            variants[f"loop{end}"] = partial(loop, network, source, output, precision)
            variants[f"ours{end}"] = partial(ours, network, source, own_output, own)
            variants[f"network{end}"] = network_alone(network, source, args.batch_size, precision)
        seconds, others = seconds_in_turn(variants, rounds=args.rounds, device=device)
        num_equal = same_files(Path(folder) / "loop", Path(folder) / "ours")
    write_result({
        "pictures": args.pictures, "picture": SIZE, "encoder": args.encoder,
        "image_size": args.image_size, "decoder_channels": args.decoder_channels,
        "batch_size": args.batch_size, "threads": torch.get_num_threads(), "rounds": args.rounds,
        "depth_files_that_agree": num_equal,
        "pictures_per_s": {
            name: summary([args.pictures / s for s in values]) for name, values in seconds.items()
        },
        "times_faster_than_the_loop": times_faster(seconds, than="loop"),
        "share_of_the_network_alone": {
            f"ours{end}": times_faster(seconds, than=f"network{end}")[f"ours{end}"]
            for end in ("", "_bf16")
        },
        "processors_busy_with_others": summary(others),
    }, device=device, out=args.out)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
