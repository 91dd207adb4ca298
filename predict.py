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
import contextlib
import json
import shutil
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat, takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from datasets import DataError
from datasets.frame import read_depth_png
from datasets.media import (
    Shot,
    Video,
    check_apart,
    find_pictures,
    in_order,
    is_video,
    picture_shot,
    stretch,
    video_shots,
)  # fmt: skip
from datasets.prediction_files import DESCRIPTION, write_depth_png, write_description
from networks import DepthNetwork, DepthOutput, NetworkError, checkpoint_file, load_network
from utils.checkpoint import file_sha256
from utils.command_line import run_script
from utils.config import ConfigError
from utils.page import Scale
from utils.point_cloud import back_project, camera_matrix, write_ply
from utils.processes import DeviceError, start_process
from utils.video import (
    VideoError,
    VideoWriter,
    coloured,
    depth_scale,
    fixed_depth_scale,
    uncertainty_scale,
)  # fmt: skip

# OSError: a full disk, or a folder that may not be written, is the user's to mend here
USER_ERRORS = (ConfigError, DataError, NetworkError, DeviceError, VideoError, OSError)
NUM_THREADS = 4  # that read, and as many that write: decoders and encoders let go of Python's lock
SAY_EVERY_S = 5.0  # progress where there is no terminal
CAMERA = ("fx_px", "fy_px", "cx_px", "cy_px", "fov_degrees")
UNCERTAINTY_UNIT = "log, larger = less sure"


@dataclass(frozen=True)
class Output:
    """What is written of every picture, and where.

    Attributes:
        kinds: "depth", "colour", "uncertainty", "points", "npz"; none with --no-frames.
        camera: arguments of `camera_matrix`; of "points".
        max_points_m: depth in metres beyond which a cloud has no point.
        scale: depth colours of all pictures; None fits them to each.
        skip_existing: whether a picture that has all its files is done.
    """

    folder: Path
    kinds: tuple[str, ...]
    units_per_metre: float
    camera: dict[str, float]
    max_points_m: float
    scale: Scale | None
    skip_existing: bool

    def path(self, kind: str, name: str) -> Path:
        """The file of one kind; the .npz lies beside the depth, where evaluate.py looks for it."""
        suffix = {"npz": ".npz", "points": ".ply"}.get(kind, ".png")
        return self.folder / ("depth" if kind == "npz" else kind) / Path(name).with_suffix(suffix)

    def is_done(self, name: str) -> bool:
        """Whether this picture may be left out."""
        files = [self.path(kind, name) for kind in self.kinds]
        return self.skip_existing and bool(files) and all(file.is_file() for file in files)

    @contextlib.contextmanager
    def unfinished(self, path: Path) -> Iterator[Path]:
        """A file to write that takes the name `path` once it is whole."""
        temporary = self.folder / ".unfinished" / f"{path.parent.name}_{path.name}"
        for file in (temporary, path):
            file.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)

    def write(self, shot: Shot, output: DepthOutput | None, *, film: bool) -> np.ndarray | None:
        """Write the files of one picture; returns its frame of the film, (H, W, 3) uint8.

        `output` is None for a picture whose files are there: the film takes its depth from them.
        """
        image = np.asarray(shot.picture)
        if output is None:
            if not film:
                return None
            depth = read_depth_png(
                self.path("depth", shot.name), units_per_metre=self.units_per_metre
            )
        else:
            output = output.resized(image.shape[:2])
            depth = output.depth[0, 0].numpy()
        scale = self.scale or depth_scale(depth)
        shown = film or (output is not None and "colour" in self.kinds)
        colours = coloured(depth, scale, unit="m") if shown else None
        if output is not None:
            unsure = output.log_uncertainty
            unsure = None if unsure is None else unsure[0, 0].numpy()
            self._write_files(shot.name, image, depth, unsure, colours)
        return np.concatenate([image, colours]) if film else None

    def _write_files(
        self, name: str, image: np.ndarray, depth: np.ndarray, unsure: np.ndarray | None,
        colours: np.ndarray | None,
    ) -> None:  # fmt: skip
        def png(path: Path, pixels: np.ndarray) -> None:
            Image.fromarray(pixels).save(path, compress_level=1)  # 6 takes longer than the network

        def uncertainty(path: Path) -> None:
            scale = uncertainty_scale(unsure)
            png(path, coloured(unsure, scale, unit=UNCERTAINTY_UNIT))

        def points(path: Path) -> None:
            near = depth <= self.max_points_m
            if not near.any():
                print(f"{name}: its point cloud is empty, nothing within --max-depth-m", flush=True)
            cloud = back_project(depth, camera_matrix(depth.shape, **self.camera))
            write_ply(path, cloud[near], image[near])

        arrays = {"depth": depth} | ({} if unsure is None else {"log_uncertainty": unsure})
        write = {
            "depth": lambda path: write_depth_png(
                path, depth, units_per_metre=self.units_per_metre
            ),
            "colour": lambda path: png(path, colours),
            "uncertainty": uncertainty,
            "points": points,
            "npz": lambda path: np.savez(path, **arrays),
        }
        for kind in self.kinds:
            with self.unfinished(self.path(kind, name)) as path:
                write[kind](path)


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
    """Run the network over the shots, batch by batch; a job for each that writes its files."""
    shots = iter(shots)
    while batch := list(islice(shots, batch_size)):
        inputs = [shot.network_input for shot in batch if shot.network_input is not None]
        started = time.monotonic()
        if inputs:
            bf16 = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
            with torch.inference_mode(), bf16:
                output = network(torch.stack(inputs).to(device))
            unsure = output.log_uncertainty
            output = DepthOutput(output.depth.cpu(), unsure if unsure is None else unsure.cpu(), ())
        tally["network_ms"] += round(1000 * (time.monotonic() - started))
        tally["predicted"] += len(inputs)
        tally["existing"] += len(batch) - len(inputs)
        rows = iter(range(len(inputs)))
        for shot in batch:
            one = None if shot.network_input is None else output.of_image(next(rows))
            yield partial(write, shot, one)


def progress(results: Iterable[Any], total: int | None) -> Iterator[Any]:
    """Pass the results on, with a bar on a terminal, else a line every SAY_EVERY_S seconds."""
    if sys.stderr.isatty():
        yield from tqdm(results, total=total, unit="picture")
        return
    started = said = time.monotonic()
    for count, result in enumerate(results, start=1):
        now = time.monotonic()
        if now - said > SAY_EVERY_S:
            said, rate = now, count / (now - started)
            left = f", {max(0, total - count) / rate:.0f} s left" if total else ""
            print(f"{count}{f'/{total}' if total else ''} pictures, {rate:.1f}/s{left}", flush=True)
        yield result


def check_continues(folder: Path, description: dict) -> None:
    """Raise DataError if the predictions in `folder` were made in another way or of other input."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return
    try:
        there = json.loads(path.read_text())
        # a checkpoint may be moved: it is known by its sha256
        asked = {key: value for key, value in description.items() if key != "checkpoint"}
        differing = [key for key, value in asked.items() if there.get(key) != value]
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); leave --skip-existing out") from error
    if differing:
        key = differing[0]
        raise DataError(
            f"{path}: {key} is {there.get(key)!r} there, {description[key]!r} now, so this run "
            "cannot go on; choose another --out, or leave --skip-existing out"
        )


def camera_of(args: argparse.Namespace) -> dict[str, float]:
    """The camera that the command line gives, checked; {} if none."""
    camera = {name: getattr(args, name) for name in CAMERA if getattr(args, name) is not None}
    if args.max_depth_m is not None and not (camera and args.max_depth_m > 0):
        raise ConfigError(
            f"--max-depth-m {args.max_depth_m:g}: is for a point cloud and positive; give "
            "--fx-px or --fov-degrees with it"
        )
    if camera:
        try:
            camera_matrix((2, 2), **camera)
        except ValueError as error:
            raise ConfigError(f"--fx-px, --fov-degrees: {error}") from error
    return camera


def colours_of(args: argparse.Namespace, max_depth: float, *, fixed: bool) -> Scale | None:
    """The depth colours of all pictures; None where each has its own, as it has unless `fixed`."""
    if args.colour_range_m is None and not fixed:
        return None
    low, high = args.colour_range_m or (max_depth / 40, max_depth)
    try:
        scale = fixed_depth_scale(low=low, high=high)
    except ValueError as error:
        raise ConfigError(f"--colour-range-m: {error}") from error
    print(f"depth colours from {low:g} to {high:g} m (--colour-range-m), the same for all")
    return scale


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
    add("--precision", choices=("fp32", "bf16"), default="fp32")
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


def describe(output: Output, network: DepthNetwork, **values: Any) -> None:
    """Write predictions.json; with skip_existing, only beside files that were made alike."""
    values = {
        **values,
        "units_per_metre": output.units_per_metre,
        "max_depth": network.max_depth,
        "resize": "prediction to the picture's own size, bilinear, half-pixel corners",
        "camera": output.camera,
    }
    if output.skip_existing:
        check_continues(output.folder / "depth", values)
    write_description(output.folder / "depth", values)


def run(
    network: DepthNetwork, source: Video | dict[str, Path], output: Output, tally: Counter, *,
    args: argparse.Namespace, image_size: tuple[int, int], device: torch.device,
) -> None:  # fmt: skip
    """Predict every picture or frame of `source`; three rows of threads read, write and encode."""
    how = {"image_size": image_size, "skip_bad": args.on_bad_input == "skip"}
    film = None
    if isinstance(source, Video):
        film = args.out / f"{source.path.stem}_depth.mp4"
        if args.skip_existing and film.is_file():
            print(f"{film} is there already")
            film = None
        frames = video_shots(source, is_done=output.is_done, **how)
        jobs, readers, total = repeat(partial(next, frames, None)), 1, source.num_frames
    else:
        left = {name: path for name, path in source.items() if not output.is_done(name)}
        tally["existing"] += len(source) - len(left)
        jobs = (partial(picture_shot, name, path, **how) for name, path in left.items())
        readers, total = NUM_THREADS, len(left)
    shots = in_order(jobs, workers=readers, ahead=2 * args.batch_size)
    shots = looked_at(
        takewhile(lambda shot: shot is not None, shots), tally, image_size=image_size,
        patch_size=network.encoder.patch_size, one_size="fx_px" in output.camera,
    )  # fmt: skip
    jobs = write_jobs(
        shots, network, partial(output.write, film=film is not None), tally,
        batch_size=args.batch_size, device=device, precision=args.precision,
    )  # fmt: skip
    results = in_order(jobs, workers=NUM_THREADS, ahead=2 * NUM_THREADS)
    if film is None:
        deque(progress(results, total), maxlen=0)
        return
    with output.unfinished(film) as path:
        writer = VideoWriter(path, rate=source.rate)
        encoded = in_order((partial(writer.add, frame) for frame in results), workers=1, ahead=4)
        deque(progress(encoded, total), maxlen=0)
        writer.close()


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
    source = Video(args.input) if is_video(args.input) else find_pictures(args.input)
    is_film = isinstance(source, Video)
    check_apart(args.input, [source.path] if is_film else source.values(), args.out)
    if args.no_frames and (not is_film or args.npz or camera):
        raise ConfigError("--no-frames: leaves nothing to write but the film of a video")
    file = checkpoint_file(args.ckpt)
    device = start_process(args.device).device
    network = load_network(file, device=device)
    image_size = tuple(args.image_size or network.image_size)
    network.encoder.grid(image_size)  # refuses what the patch does not divide
    print(f"{file}: network of {image_size[0]} x {image_size[1]} pixels (height x width), depth to "
          f"{network.max_depth:g} m, on {device}", flush=True)  # fmt: skip
    wanted = {"depth": True, "colour": True, "points": bool(camera), "npz": args.npz,
              "uncertainty": network.uncertainty_head is not None}  # fmt: skip
    output = Output(
        folder=args.out,
        kinds=tuple(kind for kind in wanted if wanted[kind] and not args.no_frames),
        units_per_metre=256.0 if network.max_depth > 65 else 1000.0,
        camera=camera,
        max_points_m=args.max_depth_m or np.inf,
        scale=colours_of(args, network.max_depth, fixed=is_film),
        skip_existing=args.skip_existing,
    )
    args.out.mkdir(parents=True, exist_ok=True)
    if output.kinds:
        describe(
            output, network, checkpoint=str(file), sha256=file_sha256(file),
            image_size=list(image_size), precision=args.precision,
            input=str(Path(args.input).resolve()),
            max_points_m=args.max_depth_m, colour_range_m=args.colour_range_m,
        )  # fmt: skip
    tally, started = Counter(), time.monotonic()
    try:
        run(network, source, output, tally, args=args, image_size=image_size, device=device)
    finally:
        shutil.rmtree(args.out / ".unfinished", ignore_errors=True)
    total = source.num_frames if is_film else None
    report(tally, output, total=total, elapsed_s=time.monotonic() - started)
    return 0


if __name__ == "__main__":
    sys.exit(run_script(main, USER_ERRORS))
