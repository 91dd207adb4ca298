"""Anyone's pictures and videos: which files an input names, read upright and as RGB. Ours.

What is no photograph is refused, not stretched into one: a 16-bit grey picture is a depth map or
a raw sensor image, and which of its values are black and white is not for us to guess.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import takewhile
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from datasets.colours import as_image
from datasets.frame import DEEP_MODES, DataError, decode_picture
from datasets.images import SUFFIXES, pictures_below
from datasets.prediction_files import png_names
from datasets.views import resized

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"}
)
ASPECT_TOLERANCE = 0.1  # a picture stretched by more than this is worth a word


def is_video(path: str | Path) -> bool:
    """Whether `path` is a file that is named like a video."""
    return Path(path).suffix.lower() in VIDEO_SUFFIXES and Path(path).is_file()


def find_pictures(source: str) -> dict[str, Path]:
    """PNG name of its prediction -> file, for every picture that `source` means, sorted.

    Args:
        source: a picture, a folder (every picture below it, hidden ones left out), or a glob
            pattern (`**` for any depth; other matches than pictures are left out). A file or folder
            that is called like a pattern is taken as itself.

    Raises:
        DataError: nothing there, no picture among it, a video among the matches, or two pictures
            whose predictions would have one name.
    """
    path = Path(source)
    if path.is_dir():
        root, ids = path, pictures_below(path)
    elif path.is_file():
        if path.suffix.lower() not in SUFFIXES:
            known = ", ".join(sorted(SUFFIXES)), ", ".join(sorted(VIDEO_SUFFIXES))
            raise DataError(f"{path}: neither a picture ({known[0]}) nor a video ({known[1]})")
        root, ids = path.parent, [path.name]
    elif glob.has_magic(source):
        root, ids = _matches(source)
    else:
        raise DataError(f"{path}: no such picture, folder or video")
    return {name: root / frame_id for frame_id, name in png_names(ids).items()}


def check_apart(source: str, files: Iterable[Path], out: Path) -> None:
    """Raise DataError if input and output share a folder: a second run would read the first's."""
    out = out.resolve()
    folder = Path(source).resolve()
    if folder.is_dir() and out.is_relative_to(folder):
        raise DataError(f"--out {out} lies in the input folder {folder}; choose one outside it")
    for file in files:
        if file.resolve().is_relative_to(out):
            raise DataError(f"input {file} lies in --out {out}; choose another folder")


def read_picture(path: Path) -> Image.Image:
    """A picture as RGB, turned upright as its EXIF data say. Grey becomes RGB, alpha is dropped.

    Raises DataError if it is missing, damaged, too large, or has one channel of more than 8 bits.
    """
    picture = decode_picture(path)
    if picture.mode in DEEP_MODES:
        raise DataError(
            f"{path}: has one channel of more than 8 bits (mode {picture.mode!r}), so it is a "
            "depth map or a raw image, not a photograph; name the pictures alone by a glob "
            "pattern, or save it as 8 bits"
        )
    try:
        return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: its EXIF data cannot be read ({error}); remove them") from error


def network_image(picture: Image.Image, image_size: tuple[int, int]) -> Tensor:
    """(3, H, W) float32 in [0, 1] at `image_size` (height, width), resized as for evaluation."""
    return as_image(resized(picture, image_size))


@dataclass(frozen=True)
class Shot:
    """A picture on its way: file name of its depth, RGB picture, and (3, h, w) for the network,
    None where its files are there already."""

    name: str
    picture: Image.Image
    network_input: Tensor | None


class Video:
    """A video file, read frame by frame.

    Attributes:
        path: the file.
        rate: frames a second, on average where they vary; 25 if the file does not say.
        num_frames: what the file says, or its duration times `rate`; None if it says neither.
    """

    def __init__(self, path: str | Path):
        """Read the head of the file. Raises DataError if it is no video, or holds no picture."""
        self.path = Path(path)
        try:
            with av.open(str(path)) as container:
                if not container.streams.video:
                    raise DataError(f"{path}: no video track in it")
                stream = container.streams.video[0]
                self.rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
                self.num_frames = stream.frames or None
                if self.num_frames is None and container.duration:
                    self.num_frames = round(container.duration / av.time_base * self.rate)
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(f"{path}: cannot be opened as a video ({error.strerror})") from error

    def frames(self) -> Iterator[Image.Image]:
        """Every frame in order as RGB, upright; no more than one is held here.

        Raises DataError where the file is damaged, or has no frame.
        """
        count = 0
        try:
            with av.open(str(self.path)) as container:
                container.streams.video[0].thread_type = "AUTO"
                for frame in container.decode(video=0):
                    # the angle is counter-clockwise, as numpy turns
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
                    yield Image.fromarray(np.ascontiguousarray(pixels))
                    count += 1
        except (av.error.FFmpegError, OSError) as error:
            raise DataError(
                f"{self.path}: damaged after {count} frames ({error.strerror})"
            ) from error
        if count == 0:
            raise DataError(f"{self.path}: the video has no frame that can be decoded")


Source = Video | dict[str, Path]  # a video, or what `find_pictures` returns


def picture_shot(
    name: str, path: Path, *, image_size: tuple[int, int], skip_bad: bool
) -> Shot | DataError:
    """One picture of a folder; what is wrong with it, if `skip_bad`."""
    try:
        picture = read_picture(path)
    except DataError as error:
        if not skip_bad:
            raise
        return error
    return Shot(name, picture, network_image(picture, image_size))


def video_shots(
    video: Video, *, image_size: tuple[int, int], is_done: Callable[[str], bool], skip_bad: bool
) -> Iterator[Shot | DataError]:
    """Every frame of a video; last what ended it too early, if `skip_bad`.

    A frame of whose name `is_done` says True has no `network_input`.
    """
    try:
        for number, picture in enumerate(video.frames()):
            name = f"frame_{number:06d}.png"
            image = None if is_done(name) else network_image(picture, image_size)
            yield Shot(name, picture, image)
    except DataError as error:
        if not skip_bad:
            raise
        yield error


def stretch(
    picture_size: tuple[int, int], *, image_size: tuple[int, int], patch_size: tuple[int, int]
) -> str:
    """How a picture is stretched to fit the network, and the remedy; "" if it hardly is.

    All sizes are (height, width) in pixels; `image_size` is the network's.
    """
    (height, width), (network_height, network_width) = picture_size, image_size
    ratio = (network_width / network_height) / (width / height)
    if 1 / (1 + ASPECT_TOLERANCE) <= ratio <= 1 + ASPECT_TOLERANCE:
        return ""
    area = network_height * network_width  # as many tokens as it was trained with
    wanted = ((area * height / width) ** 0.5, (area * width / height) ** 0.5)
    better = tuple(
        max(1, round(side / step)) * step for side, step in zip(wanted, patch_size, strict=True)
    )
    way, times = ("wider", ratio) if ratio > 1 else ("taller", 1 / ratio)
    text = (
        f"{height} x {width} pixels (height x width), made {times:.2f} times {way} to fit the "
        f"network's {network_height} x {network_width}"
    )
    remedy = f"; --image-size {better[0]} {better[1]} is nearer to its shape"
    return text + remedy * (better != tuple(image_size))


def _matches(pattern: str) -> tuple[Path, list[str]]:
    """The folder before the first wildcard, and the pictures that match, relative to it."""
    root = Path(*takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts))
    files = [path for path in map(Path, glob.glob(pattern, recursive=True)) if path.is_file()]
    if videos := sorted(str(path) for path in files if is_video(path)):
        raise DataError(f"{pattern}: matches the video {videos[0]}; give a video by its own path")
    pictures = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not pictures:
        raise DataError(
            f"{pattern}: no picture ({', '.join(sorted(SUFFIXES))}) matches; {len(files)} other "
            "files do"
        )
    return root, sorted(path.relative_to(root).as_posix() for path in pictures)
