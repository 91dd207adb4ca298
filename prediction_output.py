"""What predict.py writes of every picture, as asked for, and where a stopped run can go on.

Files take their name when they are whole, so a run that ends halfway leaves none that is cut.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets import DataError
from datasets.frame import read_depth_png
from datasets.media import Shot, Source, Video
from datasets.prediction_files import DESCRIPTION, write_depth_png, write_description
from networks import DepthNetwork, DepthOutput
from utils.config import ConfigError
from utils.page import Scale
from utils.point_cloud import back_project, camera_matrix, write_ply
from utils.threads import in_order
from utils.video import coloured, depth_scale, fixed_depth_scale, uncertainty_scale

UNCERTAINTY_UNIT = "log, larger = less sure"
CAMERA = ("fx_px", "fy_px", "cx_px", "cy_px", "fov_degrees")
UNFINISHED = ".unfinished"  # the folder of files that are being written


@dataclass(frozen=True)
class Output:
    """What is written of every picture, and where.

    Attributes:
        kinds: "depth", "colour", "uncertainty", "points", "npz"; none with --no-frames.
        film: the MP4 of pictures above their depth; None if there is none to write.
        camera: arguments of `camera_matrix`; of "points".
        max_points_m: depth in metres beyond which a cloud has no point.
        scale: depth colours of all pictures; None fits them to each.
        skip_existing: whether a picture that has all its files is done.
    """

    folder: Path
    kinds: tuple[str, ...]
    film: Path | None
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
        """Whether this picture may be left out: a film alone needs the depth of every frame."""
        wanted = bool(self.kinds) or self.film is None
        files = (self.path(kind, name) for kind in self.kinds)
        return self.skip_existing and wanted and all(file.is_file() for file in files)

    @contextlib.contextmanager
    def unfinished(self, path: Path) -> Iterator[Path]:
        """A file to write that takes the name `path` once it is whole, if it is written at all."""
        temporary = self.folder / UNFINISHED / f"{path.parent.name}_{path.name}"
        for file in (temporary, path):
            file.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.exists():  # a film of no frame does not; the run then ends with its own error
            temporary.replace(path)

    def write(self, shot: Shot, output: DepthOutput | None) -> np.ndarray | None:
        """Write the files of one picture; returns its frame of the film, (H, W, 3) uint8.

        `output` is of that picture alone, of any size; None for a picture whose files are there:
        the film takes its depth from them.
        """
        image = np.asarray(shot.picture)
        if output is not None:
            output = output.resized(image.shape[:2])
            depth = output.depth[0, 0].numpy()
        elif self.film is not None:
            path = self.path("depth", shot.name)
            depth = read_depth_png(path, units_per_metre=self.units_per_metre)
        else:
            return None
        colours = coloured(depth, self.scale or depth_scale(depth), unit="m")
        if output is not None:
            unsure = output.log_uncertainty
            unsure = None if unsure is None else unsure[0, 0].numpy()
            self._write_files(shot.name, image, depth, unsure, colours)
        return None if self.film is None else np.concatenate([image, colours])

    def _write_files(
        self, name: str, image: np.ndarray, depth: np.ndarray, unsure: np.ndarray | None,
        colours: np.ndarray,
    ) -> None:  # fmt: skip
        arrays = {"depth": depth} | ({} if unsure is None else {"log_uncertainty": unsure})
        units = {"units_per_metre": self.units_per_metre}
        write = {
            "depth": lambda path: write_depth_png(path, depth, **units),
            "colour": lambda path: write_png(path, colours),
            "uncertainty": lambda path: write_uncertainty(path, unsure),
            "points": lambda path: self._write_points(path, name, image, depth),
            "npz": lambda path: np.savez(path, **arrays),
        }

        def finish(kind: str) -> None:
            with self.unfinished(self.path(kind, name)) as path:
                write[kind](path)

        # side by side: encoding takes longest, and a single picture has no other to wait for
        jobs = (partial(finish, kind) for kind in self.kinds)
        deque(in_order(jobs, workers=len(write), ahead=len(write)), maxlen=0)

    def _write_points(self, path: Path, name: str, image: np.ndarray, depth: np.ndarray) -> None:
        near = depth <= self.max_points_m
        if not near.any():
            print(f"{name}: its point cloud is empty, nothing within --max-depth-m", flush=True)
        cloud = back_project(depth, camera_matrix(depth.shape, **self.camera))
        write_ply(path, cloud[near], image[near])

    def describe(self, values: dict[str, Any]) -> None:
        """Write predictions.json: `values`, and what this output knows itself.

        Raises DataError if a run is to go on where predictions were made in another way.
        """
        values = {**values, "units_per_metre": self.units_per_metre, "camera": self.camera}
        if self.skip_existing:
            check_continues(self.folder / "depth", values)
        write_description(self.folder / "depth", values)


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


def open_output(
    args: argparse.Namespace, network: DepthNetwork, source: Source, camera: dict[str, float]
) -> Output:
    """What is to be written, and where; a film that is there already is not written again."""
    film = None
    if isinstance(source, Video):
        film = args.out / f"{source.path.stem}_depth.mp4"
        if args.skip_existing and film.is_file():
            print(f"{film} is there already")
            film = None
    wanted = {"depth": True, "colour": True, "points": bool(camera), "npz": args.npz,
              "uncertainty": network.uncertainty_head is not None}  # fmt: skip
    return Output(
        folder=args.out,
        kinds=tuple(kind for kind in wanted if wanted[kind] and not args.no_frames),
        film=film,
        units_per_metre=256.0 if network.max_depth > 65 else 1000.0,
        camera=camera,
        max_points_m=args.max_depth_m or np.inf,
        scale=colours_of(args, network.max_depth, fixed=isinstance(source, Video)),
        skip_existing=args.skip_existing,
    )


def write_png(path: Path, pixels: np.ndarray) -> None:
    """(H, W, 3) uint8 as a PNG."""
    Image.fromarray(pixels).save(path, compress_level=1)  # 6 takes longer than the network


def write_uncertainty(path: Path, log_uncertainty: np.ndarray) -> None:
    """(H, W) as a picture in its own colours, with their bar."""
    scale = uncertainty_scale(log_uncertainty)
    write_png(path, coloured(log_uncertainty, scale, unit=UNCERTAINTY_UNIT))


def check_continues(folder: Path, description: dict[str, Any]) -> None:
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
