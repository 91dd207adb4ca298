"""Pictures decoded, cropped and resized once, kept in one file: later passes only read. Ours.

Depth is not in it, and neither are the sources of self-supervision: both are read from their files
as without a cache. Batches are the same to the bit.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from .frame import DataError, Frame
from .loading import MAX_REPLACED_SHARE, start_worker
from .views import RESIZED_BY, placed

FORMAT_VERSION = 1
PICTURES, INTRINSICS, BROKEN, ABOUT = "pictures.u8", "intrinsics.npy", "broken.json", "about.json"
CHECKED = 4  # frames of a cache that are decoded again when it is opened


class CachedFrames:
    """Frames of a dataset, their pictures from the cache. What else they are stays as it is.

    Args:
        dataset: with `frame(index)`, `frame_ids`, `paths(index)` and `ground_truths(index)`.
        indices: the frames that are asked for.
        folder: finished cache of these frames, see `build_cache`.
        image_size: (height, width) of its pictures.
    """

    def __init__(
        self, dataset: Any, indices: Sequence[int], folder: Path, image_size: tuple[int, int]
    ):
        self.dataset, self.folder, self.image_size = dataset, folder, image_size
        self.frame_ids = dataset.frame_ids
        self.places = {index: place for place, index in enumerate(_in_order(indices))}
        self.intrinsics = np.load(folder / INTRINSICS)
        broken = json.loads((folder / BROKEN).read_text(encoding="utf-8"))
        self.broken = {int(place): message for place, message in broken.items()}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # asked for while a copy is still empty
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def frame(self, index: int) -> Frame:
        """Frame `index`, cropped and resized. Raises DataError if its file was broken."""
        place = self.places[index]
        if place in self.broken:
            raise DataError(self.broken[place])
        depth = partial(_own_depth, self.dataset, index)
        return Frame(
            self.frame_ids[index],
            Image.fromarray(self._pixels(place)),
            self.intrinsics[place].copy(),
            load_depth=depth if "depth" in self.dataset.paths(index) else None,
            is_placed=True,
        )

    def _pixels(self, place: int) -> np.ndarray:
        """(H, W, 3) uint8. Read, not mapped: a mapped file that is cut short ends its readers."""
        file, shape = self.folder / PICTURES, (*self.image_size, 3)
        size = math.prod(shape)
        try:
            values = np.fromfile(file, np.uint8, count=size, offset=size * place)
        except OSError as error:
            raise DataError(f"{file}: cannot be read any more ({error})") from error
        if values.size != size:
            raise DataError(f"{file} was cut short; delete {self.folder}")
        return values.reshape(shape)


def cached_frames(
    dataset: Any,
    indices: Sequence[int],
    folder: str | Path,
    *,
    image_size: tuple[int, int],
    crop: Sequence[float] | None = None,
    num_workers: int = 0,
    skip_broken: bool = False,
) -> CachedFrames:
    """The frames at `indices` from their cache below `folder`, which is built if need be.

    A cache belongs to these frames, their files' sizes and times, image size, crop and resize rule:
    if any changes, another is built beside it. Whoever comes while it is being built waits. A few
    of its frames are decoded again and compared; where they differ (another calibration, another
    decoder), it is built anew.

    Args:
        num_workers: processes that decode.
        skip_broken: keep the message of a broken frame, and raise it when the frame is asked for;
            otherwise the first one is an error here.

    Raises:
        DataError: a frame is broken, the disk is full, or `folder` cannot be written or locked.
    """
    indices = _in_order(indices)
    shape = {"image_size": tuple(image_size), "crop": crop}
    about = _description(dataset, indices, **shape)
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    cache = Path(folder) / f"{len(indices)}_frames_{image_size[0]}x{image_size[1]}_{digest}"
    frames = _PlacedFrames(dataset, indices, **shape)
    try:
        with _alone(cache):
            if cache.is_dir() and not _holds(cache, frames):
                print(f"{cache}: does not hold what its frames are now; built anew", flush=True)
                shutil.rmtree(cache)
            if not cache.is_dir():
                _build(cache, frames, about, num_workers=num_workers, skip_broken=skip_broken)
    except OSError as error:
        raise DataError(
            f"train.cache: {cache} cannot be written ({error}); choose a folder on a local disk "
            "with room for it, or null"
        ) from error
    return CachedFrames(dataset, indices, cache, tuple(image_size))


class _PlacedFrames(Dataset):
    """Place -> (H, W, 3) uint8 picture and (3, 3) intrinsics, or the message of a broken frame."""

    def __init__(self, dataset: Any, indices: Sequence[int], **shape: Any):
        self.dataset, self.indices, self.shape = dataset, indices, shape

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def num_bytes(self) -> int:
        """Of all pictures."""
        return 3 * math.prod(self.shape["image_size"]) * len(self)

    def __getitem__(self, place: int) -> tuple[np.ndarray, np.ndarray, str]:
        try:
            frame = self.dataset.frame(self.indices[place])
            picture, intrinsics = placed(frame.image, frame.intrinsics, **self.shape)
        except DataError as error:
            height, width = self.shape["image_size"]
            return np.zeros((height, width, 3), np.uint8), np.full((3, 3), np.nan), str(error)
        return np.ascontiguousarray(picture.numpy().transpose(1, 2, 0)), intrinsics, ""


def _build(
    cache: Path, frames: _PlacedFrames, about: dict, *, num_workers: int, skip_broken: bool
) -> None:
    """Write a cache beside its place, then rename it: what has that name is whole."""
    draft = cache.with_name(f"{cache.name}.unfinished")
    shutil.rmtree(draft, ignore_errors=True)  # of a run that was stopped
    draft.mkdir()
    try:
        needed, free = frames.num_bytes, shutil.disk_usage(draft).free
        if needed > free:
            raise OSError(f"{needed / 2**30:.1f} GiB needed, {free / 2**30:.1f} GiB free")
        intrinsics, broken = np.full((len(frames), 3, 3), np.nan), {}
        decoded = DataLoader(
            frames, batch_size=None, num_workers=num_workers, worker_init_fn=start_worker,
            collate_fn=_as_it_is,
        )  # fmt: skip
        progress = tqdm(decoded, total=len(frames), unit="frame", desc=f"caching in {cache.parent}")
        with (draft / PICTURES).open("wb") as file:
            for place, (picture, matrix, message) in enumerate(progress):
                if message:
                    broken[place] = message
                    _report_broken(broken, len(frames), skip=skip_broken)
                file.write(picture.data)
                intrinsics[place] = matrix
            file.flush()
            os.fsync(file.fileno())
        np.save(draft / INTRINSICS, intrinsics)
        for name, content in ((BROKEN, broken), (ABOUT, about)):
            (draft / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        draft.rename(cache)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _report_broken(broken: dict[int, str], num_frames: int, *, skip: bool) -> None:
    """What the loader does with a broken frame when it comes to it, for the last one of these."""
    message = list(broken.values())[-1]
    if not skip:
        raise DataError(message)
    print(f"broken frame: {message}", flush=True)
    if len(broken) > max(1, MAX_REPLACED_SHARE * num_frames):
        raise DataError(
            f"{len(broken)} of {num_frames} frames are broken, more than "
            f"{100 * MAX_REPLACED_SHARE:g} %; check the dataset. The last one: {message}"
        )


def _holds(cache: Path, frames: _PlacedFrames) -> bool:
    """Whether the cache is whole, and a few of its frames are still what it has of them."""
    try:
        kept = CachedFrames(frames.dataset, frames.indices, cache, frames.shape["image_size"])
        size = (cache / PICTURES).stat().st_size
    except (OSError, ValueError):  # a part is missing or no longer what it was
        return False
    checked = {round(k * (len(frames) - 1) / CHECKED) for k in range(CHECKED + 1)}
    return size == frames.num_bytes and all(_same(kept, frames, place) for place in checked)


def _same(kept: CachedFrames, frames: _PlacedFrames, place: int) -> bool:
    picture, intrinsics, message = frames[place]
    if message or place in kept.broken:
        return message == kept.broken.get(place)
    frame = kept.frame(frames.indices[place])
    same_camera = np.array_equal(frame.intrinsics, intrinsics, equal_nan=True)
    return same_camera and np.array_equal(np.asarray(frame.image), picture)


def _description(
    dataset: Any, indices: Sequence[int], *, image_size: tuple[int, int], crop: Any
) -> dict:
    """All that decides what is in a cache; its hash is part of the cache's name."""
    files = []
    for index in indices:
        try:
            stat = dataset.paths(index)["image"].stat()
            files.append([dataset.frame_ids[index], stat.st_size, stat.st_mtime_ns])
        except OSError:  # missing: whoever reads it says so
            files.append([dataset.frame_ids[index], None, None])
    return {
        "format_version": FORMAT_VERSION,
        "dataset": type(dataset).__name__,
        "image_size": list(image_size),
        "crop": None if crop is None else list(crop),
        "resized_by": RESIZED_BY,
        "files": files,
    }


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """One process at a time; the others wait here. The lock ends with its process."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.with_name(f"{cache.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _own_depth(dataset: Any, index: int) -> np.ndarray:
    return next(iter(dataset.ground_truths(index).values()))()  # the dataset's own is the first


def _in_order(indices: Sequence[int]) -> list[int]:
    return sorted(set(indices))


def _as_it_is(item: Any) -> Any:
    return item
