"""Writing synthetic streets to disk, once, as a tree in KITTI's layout.

A tree appears under its final name only when it is complete: it is rendered in a folder beside it
and renamed at the end. Every scene depends on (seed, split, number, look) alone, so the files are
the same for any number of workers, and the validation scenes for any number of training scenes.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from .frame import DataError
from .synthetic_files import TreeFiles, write_scene
from .synthetic_look import LOOKS

RENDERER_VERSION = 2  # raise it whenever a pixel or a file of the tree changes
SPLITS = ("train", "val", "test")  # each has a date of its own: 2026_01_01, _02, _03
MIN_SIDE = 32  # pixels
SECONDS_PER_FRAME = 0.05  # of one worker at 128x416; for the estimate in messages only


@dataclass(frozen=True)
class SyntheticSettings:
    """What is rendered. A scene is a street of its own, and a drive through it at 10 Hz.

    Attributes:
        num_train_scenes, num_val_scenes, num_test_scenes: streets; no two splits share one.
        frames_per_scene: consecutive frames of each drive.
        image_size: height and width in pixels; the field of view does not depend on it.
        seed: another seed gives other streets.
    """

    num_train_scenes: int = 375
    num_val_scenes: int = 30
    num_test_scenes: int = 30
    frames_per_scene: int = 4
    image_size: tuple[int, int] = (128, 416)
    seed: int = 0

    @property
    def num_frames(self) -> int:
        """Frames of all splits; each is seen by two cameras."""
        scenes = self.num_train_scenes + self.num_val_scenes + self.num_test_scenes
        return scenes * self.frames_per_scene

    def estimated_seconds(self, workers: int) -> float:
        """Rough rendering time."""
        pixels = self.image_size[0] * self.image_size[1] / (128 * 416)
        return 3 + self.num_frames * SECONDS_PER_FRAME * pixels / workers


class _Job(NamedTuple):
    """One scene to be written by a worker."""

    folder: Path
    look: str
    settings: SyntheticSettings
    split: int  # index into SPLITS
    number: int  # scene within its split


def write_tree(
    folder: str | Path, look: str, settings: SyntheticSettings, workers: int | None = None
) -> Path:
    """Render a tree of one look. Nothing is done if the same tree is already there.

    Args:
        folder: where the tree shall be; its parent is created if needed.
        look: "look_a" or "look_b".
        settings: what to render.
        workers: processes; None takes one per usable CPU, at most 8. The files do not depend on it.

    Returns:
        `folder`. If another process finished the same tree first, its tree is kept.

    Raises:
        DataError: bad argument, or `folder` holds something else.
    """
    folder = Path(folder).absolute()
    _check_settings(look, settings)
    if folder.exists():
        check_tree(folder, look, settings)
        return folder
    workers = workers or default_workers()
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-unfinished-", dir=folder.parent))
    try:
        os.chmod(draft, 0o755)  # mkdtemp makes it private
        _render(draft, look, settings, workers)
        _write_settings(draft, look, settings)
        try:
            draft.rename(folder)
        except OSError:
            if not folder.exists():
                raise
            check_tree(folder, look, settings)  # another process was faster
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def check_tree(folder: Path, look: str, settings: SyntheticSettings | None = None) -> None:
    """Raise DataError unless `folder` is a finished tree of `look` by this version of the renderer.

    With `settings`, the tree must also have been rendered with these.
    """
    remedy = f"delete {folder} or choose another root"
    path = folder / "settings.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a tree of synthetic streets ({error}); {remedy}") from error
    if not isinstance(found, dict) or found.get("renderer_version") != RENDERER_VERSION:
        version = found.get("renderer_version") if isinstance(found, dict) else None
        raise DataError(
            f"{path}: rendered by version {version} of the renderer, this is version "
            f"{RENDERER_VERSION}; {remedy}"
        )
    wanted = _description(look, settings) if settings else {"look": look}
    other = {key: found.get(key) for key in wanted if found.get(key) != wanted[key]}
    if other:
        asked = {key: wanted[key] for key in other}
        raise DataError(f"{path}: holds {other}, asked for {asked}; {remedy}")


def default_workers() -> int:
    """One per usable CPU, at most 8."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, 8)


def _check_settings(look: str, settings: SyntheticSettings) -> None:
    if look not in LOOKS:
        raise DataError(f"synthetic has no look {look!r}; choose {' or '.join(LOOKS)}")
    counts = {key: value for key, value in asdict(settings).items() if key.startswith("num_")}
    if min(counts.values()) < 0 or settings.num_frames < 1:
        raise DataError(f"nothing to render: {counts}, {settings.frames_per_scene} frames a scene")
    if min(settings.image_size) < MIN_SIDE:
        raise DataError(f"image_size {settings.image_size}: at least {MIN_SIDE} pixels a side")


def _description(look: str, settings: SyntheticSettings) -> dict:
    described = {**asdict(settings), "image_size": list(settings.image_size)}
    return {"renderer_version": RENDERER_VERSION, "look": look, **described}


def _write_settings(folder: Path, look: str, settings: SyntheticSettings) -> None:
    text = json.dumps(_description(look, settings), indent=2)
    (folder / "settings.json").write_text(text + "\n", encoding="utf-8")


def _render(folder: Path, look: str, settings: SyntheticSettings, workers: int) -> None:
    """Write all scenes, then the split lists."""
    scenes = (settings.num_train_scenes, settings.num_val_scenes, settings.num_test_scenes)
    jobs = []
    for split, count in enumerate(scenes):
        files = TreeFiles(folder, split)
        files.write_calibration(settings.image_size)
        jobs += [_Job(folder, look, settings, split, number) for number in range(count)]
        lines = [
            f"{files.drive(number)} {frame:010d}\n"
            for number in range(count)
            for frame in range(settings.frames_per_scene)
        ]
        path = folder / "splits" / f"{SPLITS[split]}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(lines), encoding="utf-8")

    per_scene = settings.frames_per_scene
    with tqdm(
        total=settings.num_frames, unit="frame", desc=f"rendering {look}", **_bar_style()
    ) as bar:
        for _ in _written(jobs, min(workers, len(jobs))):
            bar.update(per_scene)


def _bar_style() -> dict:
    """A moving bar on a terminal; elsewhere one plain line every few seconds."""
    if os.isatty(2):
        return {"dynamic_ncols": True}
    return {"ascii": True, "mininterval": 5.0, "ncols": 80, "bar_format": "{l_bar}{r_bar}\n"}


def _written(jobs: list[_Job], workers: int) -> Iterator[None]:
    """Do the jobs in this process (one worker) or in spawned ones; yields once per finished job."""
    if workers == 1:
        yield from map(_write, jobs)
        return
    # spawn, not fork: the caller may have threads, or a CUDA context
    context = multiprocessing.get_context("spawn")
    with (
        _one_thread_each(),
        ProcessPoolExecutor(workers, context, initializer=_ignore_interrupt) as pool,
    ):
        try:
            for job in as_completed([pool.submit(_write, job) for job in jobs]):
                yield job.result()
        except BrokenProcessPool as error:
            raise DataError(
                "a process that renders has died: out of memory, or the calling script is not a "
                'file whose work stands under `if __name__ == "__main__":`. '
                "`python -m datasets.prepare synthetic` renders as well"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _write(job: _Job) -> None:
    write_scene(
        TreeFiles(job.folder, job.split),
        job.look,
        number=job.number,
        num_frames=job.settings.frames_per_scene,
        size=job.settings.image_size,
        seed=job.settings.seed,
    )


def _ignore_interrupt() -> None:
    """Ctrl-C is for the parent, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Children started inside use one BLAS thread each: the workers are the parallelism."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
