"""Depth for anyone's pictures: one, a folder, a glob pattern, or a video, of any size.

    python predict.py --ckpt runs/base_train --input photo.jpg --out predicted
    python predict.py --ckpt runs/base_train --input 'shots/**/*.jpg' --out predicted --npz
    python predict.py --ckpt runs/base_train --input drive.mp4 --out predicted --fov-degrees 80

Below --out: depth/ has 16-bit PNGs of metres (and predictions.json, which says how many units a
metre has), colour/ and uncertainty/ pictures with a colour bar, points/ coloured PLY clouds if the
camera is given; a video also becomes <name>_depth.mp4. All have the size of the input picture.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice, repeat, takewhile
from pathlib import Path

import numpy as np
import torch

from datasets import DataError
from datasets.media import (
    Shot,
    Source,
    Video,
    check_apart,
    find_pictures,
    is_video,
    picture_shot,
    stretch,
    video_shots,
)  # fmt: skip
from networks import DepthNetwork, DepthOutput, NetworkError, checkpoint_file, load_network
from prediction_output import UNFINISHED, Output, camera_of, open_output
from predictions import precision_gap, precision_words
from utils.checkpoint import file_sha256
from utils.command_line import run_script
from utils.config import ConfigError
from utils.optimization import autocast
from utils.processes import DeviceError, start_process
from utils.progress import progress
from utils.threads import in_order
from utils.video import VideoError, VideoWriter

# OSError: a full disk, or a folder that may not be written, is the user's to mend here
USER_ERRORS = (ConfigError, DataError, NetworkError, DeviceError, VideoError, OSError)
NUM_THREADS = 4  # that read, and as many that write: decoders and encoders let go of Python's lock


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line; see --help."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--ckpt", required=True, help="run folder or checkpoint file")
    add("--input", required=True, help="picture, folder, quoted glob pattern, or video")
    add("--out", required=True, type=Path, help="folder for the results, outside the input's")
    add("--image-size", type=int, nargs=2, metavar=("H", "W"),
        help="run the network at this size in pixels (default: its own)")  # fmt: skip
    add("--batch-size", type=int, default=4, help="pictures at a time (default: %(default)s)")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--precision", choices=("fp32", "bf16"), default="fp32",
        help="bf16: faster, refused where it moves depth by over 1 %% on average")  # fmt: skip
    add("--npz", action="store_true", help="also depth/*.npz: float32 depth, log_uncertainty")
    add("--no-frames", action="store_true", help="of a video, write the _depth.mp4 only")
    add("--skip-existing", action="store_true", help="go on where a run was stopped")
    add("--on-bad-input", choices=("error", "skip"), default="error", help="damaged pictures")
    add("--colour-range-m", type=float, nargs=2, metavar=("LOW", "HIGH"),
        help="depth colours of all pictures (default: fitted to each; of a video, max_depth / 40 "
        "to max_depth)")  # fmt: skip
    camera = parser.add_argument_group(
        "point clouds", "points/*.ply, if --fx-px or --fov-degrees is given"
    )
    for name, text in (("fx", "focal length"), ("fy", "vertical focal length (default: fx)"),
                       ("cx", "principal point (default: the middle)"),
                       ("cy", "principal point (default: the middle)")):  # fmt: skip
        camera.add_argument(f"--{name}-px", type=float, help=f"{text}, pixels of the picture")
    camera.add_argument("--fov-degrees", type=float, help="horizontal field of view, instead of fx")
    camera.add_argument("--max-depth-m", type=float, help="leave out points beyond this (sky)")
    args = parser.parse_args(arguments)
    if args.batch_size < 1:
        raise ConfigError(f"--batch-size {args.batch_size}: must be at least 1")
    return args


def open_source(args: argparse.Namespace, *, with_points: bool) -> Source:
    """What --input names. Raises DataError or ConfigError where it does not go with the rest."""
    source = Video(args.input) if is_video(args.input) else find_pictures(args.input)
    is_film = isinstance(source, Video)
    check_apart(args.input, [source.path] if is_film else source.values(), args.out)
    if args.no_frames and (not is_film or args.npz or with_points):
        raise ConfigError("--no-frames: leaves nothing to write but the film of a video")
    return source


def read_shots(
    source: Source, output: Output, tally: Counter, *,
    image_size: tuple[int, int], skip_bad: bool, ahead: int,
) -> Iterator[Shot | DataError]:  # fmt: skip
    """The pictures or frames that are to be predicted, read by threads, `ahead` of their turn."""
    how = {"image_size": image_size, "skip_bad": skip_bad}
    if isinstance(source, Video):
        # a frame needs the one before it, so one thread reads them all
        frames, workers = video_shots(source, is_done=output.is_done, **how), 1
        jobs = repeat(partial(next, frames, None))
    else:
        left = {name: path for name, path in source.items() if not output.is_done(name)}
        tally["existing"] += len(source) - len(left)
        jobs = (partial(picture_shot, name, path, **how) for name, path in left.items())
        workers = NUM_THREADS
    return takewhile(lambda shot: shot is not None, in_order(jobs, workers=workers, ahead=ahead))


def looked_at(
    shots: Iterable[Shot | DataError], tally: Counter, *, image_size: tuple[int, int],
    patch_size: tuple[int, int], one_size: bool,
) -> Iterator[Shot]:  # fmt: skip
    """The shots that can be predicted. Says what is skipped, and once that pictures are stretched.

    Raises DataError where pictures of `one_size` have two.
    """
    first = None
    for shot in shots:
        if isinstance(shot, DataError):
            tally["bad"] += 1
            print(f"skipped: {shot}", flush=True)
            continue
        size = (shot.picture.height, shot.picture.width)
        first = first or (shot.name, size)
        if one_size and size != first[1]:
            raise DataError(
                f"{shot.name} has {size[0]} x {size[1]} pixels, {first[0]} {first[1][0]} x "
                f"{first[1][1]}: focal length and principal point in pixels cannot be right for "
                "both; use --fov-degrees, or one run a size"
            )
        text = stretch(size, image_size=image_size, patch_size=patch_size)
        if text and not tally["stretched"]:
            print(f"{shot.name}: {text}", flush=True)
        tally["stretched"] += bool(text)
        yield shot


def write_jobs(
    shots: Iterable[Shot], network: DepthNetwork, write: Callable, tally: Counter, *,
    batch_size: int, device: torch.device, precision: str,
) -> Iterator[Callable[[], np.ndarray | None]]:  # fmt: skip
    """Run the network over the shots, batch by batch; a job for each that writes its files.

    Raises NetworkError where bf16 would move the depth of the first picture too far.
    """
    shots = iter(shots)
    while batch := list(islice(shots, batch_size)):
        inputs = [shot.network_input for shot in batch if shot.network_input is not None]
        started = time.monotonic()
        if inputs:
            image = torch.stack(inputs).to(device)
            if precision == "bf16" and not tally["predicted"]:
                print(precision_words(precision_gap(network, image[:1])), flush=True)
            with torch.inference_mode(), autocast(device, precision):
                output = network(image)
            unsure = output.log_uncertainty
            output = DepthOutput(output.depth.cpu(), unsure if unsure is None else unsure.cpu(), ())
        tally["network_ms"] += round(1000 * (time.monotonic() - started))
        tally["predicted"] += len(inputs)
        tally["existing"] += len(batch) - len(inputs)
        rows = iter(range(len(inputs)))
        for shot in batch:
            one = None if shot.network_input is None else output.of_image(next(rows))
            yield partial(write, shot, one)


def run(
    network: DepthNetwork, source: Source, output: Output, *,
    args: argparse.Namespace, image_size: tuple[int, int], device: torch.device,
) -> Counter:  # fmt: skip
    """Predict every picture or frame of `source`; threads read, write and encode meanwhile.

    Returns what there was: "predicted", "existing", "bad", "stretched", "network_ms".
    """
    tally = Counter()
    shots = read_shots(
        source, output, tally, image_size=image_size, skip_bad=args.on_bad_input == "skip",
        ahead=2 * args.batch_size,
    )  # fmt: skip
    shots = looked_at(
        shots, tally, image_size=image_size, patch_size=network.encoder.patch_size,
        one_size="fx_px" in output.camera,
    )  # fmt: skip
    jobs = write_jobs(
        shots, network, output.write, tally,
        batch_size=args.batch_size, device=device, precision=args.precision,
    )  # fmt: skip
    written = in_order(jobs, workers=NUM_THREADS, ahead=2 * NUM_THREADS)
    is_film = isinstance(source, Video)
    total = source.num_frames if is_film else len(source) - tally["existing"]
    if output.film is None:
        deque(progress(written, total, unit="picture"), maxlen=0)
        return tally
    with output.unfinished(output.film) as path:
        film = VideoWriter(path, rate=source.rate)
        encoded = in_order((partial(film.add, frame) for frame in written), workers=1, ahead=4)
        deque(progress(encoded, total, unit="picture"), maxlen=0)
        film.close()
    return tally


def report(tally: Counter, output: Output, *, total: int | None, elapsed_s: float) -> None:
    """Say what was done. Raises DataError if no input could be read."""
    done = tally["predicted"] + tally["existing"]
    if not done:
        raise DataError(f"none of the {tally['bad']} inputs could be read")
    share = tally["network_ms"] / 1000 / elapsed_s
    print(f"{tally['predicted']} pictures predicted in {elapsed_s:.1f} s, "
          f"{tally['predicted'] / elapsed_s:.1f} a second (the network ran {share:.0%} of the time)"
          f"; {tally['existing']} were there already, {tally['bad']} bad inputs skipped, "
          f"{tally['stretched']} stretched")  # fmt: skip
    if total and done + tally["bad"] < total:
        print(f"note: the file announces {total} frames, {done} could be decoded; it may be cut")
    if (there := len(list(output.folder.glob("depth/*.png")))) > done and output.kinds:
        print(f"note: {output.folder / 'depth'} also holds {there - done} files of other inputs")
    print(f"written to {output.folder}")


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    camera = camera_of(args)
    source = open_source(args, with_points=bool(camera))
    file = checkpoint_file(args.ckpt)
    device = start_process(args.device).device
    network = load_network(file, device=device)
    image_size = tuple(args.image_size or network.image_size)
    network.encoder.grid(image_size)  # refuses what the patch does not divide
    print(f"{file}: network of {image_size[0]} x {image_size[1]} pixels (height x width), depth to "
          f"{network.max_depth:g} m, on {device}", flush=True)  # fmt: skip
    output = open_output(args, network, source, camera)
    args.out.mkdir(parents=True, exist_ok=True)
    if output.kinds:
        output.describe({
            "checkpoint": str(file),
            "sha256": file_sha256(file),
            "image_size": list(image_size),
            "precision": args.precision,
            "input": str(Path(args.input).resolve()),
            "max_points_m": args.max_depth_m,
            "colour_range_m": args.colour_range_m,
            "max_depth": network.max_depth,
            "resize": "prediction to the picture's own size, bilinear, half-pixel corners",
        })  # fmt: skip
    started = time.monotonic()
    try:
        tally = run(network, source, output, args=args, image_size=image_size, device=device)
    finally:
        shutil.rmtree(args.out / UNFINISHED, ignore_errors=True)
    total = source.num_frames if isinstance(source, Video) else None
    report(tally, output, total=total, elapsed_s=time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
