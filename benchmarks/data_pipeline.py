"""How many images a second one core makes ready: decode, resize, weak and strong view.

    python benchmarks/data_pipeline.py --out benchmarks/results/data_pipeline_cpu.json
    python benchmarks/data_pipeline.py --images /kitti/2011_09_26/...sync/image_02/data

Against the plain way, Pillow and torchvision picture by picture, in the order of the authors (all
colours at full size, then Lanczos) and with the resize first. Variants take turns, on one thread,
in batches. Without --images: noise and gradients of KITTI's size as JPEG of quality 92.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch.utils.data import default_collate
from torchvision.transforms.v2 import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import seconds_in_turn, summary, times_faster, write_result
from datasets.cache import cached_frames
from datasets.colours import Jitter, colour_views, draw
from datasets.frame import read_image
from datasets.images import ImageFolder
from datasets.loading import TrainingSamples
from datasets.photometric import OPERATIONS, Strong, draw_strong
from datasets.views import to_tensor, unlabeled_view
from utils.seeding import seeded

STORED_SIZE = (375, 1242)  # of most KITTI frames
JITTER = Jitter(flip=0.5, jitter=0.5, brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1)
STRONG = Strong(tuple(OPERATIONS)[:10], num_operations=3, magnitude=5.0, magnitude_std=0.5)
ENHANCERS = {  # by the first word of an operation's name
    "color": ImageEnhance.Color,
    "contrast": ImageEnhance.Contrast,
    "brightness": ImageEnhance.Brightness,
    "sharpness": ImageEnhance.Sharpness,
}
DRAWS = partial(seeded, 0, "view")


def plain_views(path: Path, size: tuple[int, int], number: int, *, resize_first: bool) -> dict:
    """Both views of one picture by Pillow and torchvision, float32 in [0, 1]."""
    generator = DRAWS(number)

    def resized(image: Image.Image) -> Image.Image:
        return image.resize(size[::-1], Image.Resampling.LANCZOS)

    image = read_image(path)
    if resize_first:
        image = resized(image)
    if draw(generator) < JITTER.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    weak, strong = jittered(image, generator), randomly_augmented(image, generator)
    if not resize_first:
        weak, strong = resized(weak), resized(strong)
    return {"weak_image": to_tensor(weak), "strong_image": to_tensor(strong)}


def jittered(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """torchvision's colour jitter, on a Pillow picture."""
    chosen = draw(generator) < JITTER.jitter
    brightness, contrast, saturation, hue = (2 * draw(generator) - 1 for _ in range(4))
    if not chosen:
        return image
    image = functional.adjust_brightness(image, 1 + JITTER.brightness * brightness)
    image = functional.adjust_contrast(image, 1 + JITTER.contrast * contrast)
    image = functional.adjust_saturation(image, 1 + JITTER.saturation * saturation)
    return functional.adjust_hue(image, JITTER.hue * hue)


def randomly_augmented(image: Image.Image, generator: torch.Generator) -> Image.Image:
    """The authors' ten operations, by Pillow."""
    names = tuple(OPERATIONS)
    drawn = (values.tolist() for values in draw_strong(STRONG, generator))
    for place, strength in zip(*drawn, strict=True):
        name = names[place].split("_")[0]
        if name in ENHANCERS:
            image = ENHANCERS[name](image).enhance(strength)
        else:
            image = ImageOps.invert(image) if name == "invert" else ImageOps.autocontrast(image)
    return image


def write_pictures(folder: Path, count: int) -> None:
    """Gradients and noise at two scales: about as many bytes as KITTI's frames in this quality."""
    height, width = STORED_SIZE
    rows, columns = np.mgrid[0:height, 0:width]
    for number in range(count):
        rng = np.random.default_rng(number)
        waves = np.stack([rows * rng.random() / 3 + columns * rng.random() / 6 for _ in range(3)])
        coarse = rng.integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
        blobs = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        fine = rng.normal(0, 5, (height, width, 1))
        values = 0.5 * (waves.transpose(1, 2, 0) % 256) + 0.5 * np.asarray(blobs) + fine
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number:04d}.jpg", quality=92)


def in_batches(entries: Iterator[dict], size: int, finish: Callable[[dict], Any]) -> None:
    """Collate as the loader does, and `finish` each batch."""
    waiting = []
    for entry in entries:
        waiting.append(entry)
        if len(waiting) == size:
            finish(default_collate(waiting))
            waiting = []


def variants_of(
    paths: list[Path], frames: ImageFolder, cached: Any, size: tuple[int, int], batch_size: int
) -> dict[str, Callable[[], None]]:
    """What is timed, by name; each goes over all pictures of `paths`, the first `frames`, once."""
    view = partial(unlabeled_view, image_size=size, augmentation=JITTER, strong=STRONG)
    samples, kept = (
        TrainingSamples(source, view=view, generator_for=DRAWS) for source in (frames, cached)
    )

    def plain(resize_first: bool) -> None:
        entries = (
            plain_views(path, size, number, resize_first=resize_first)
            for number, path in enumerate(paths)
        )
        in_batches(entries, batch_size, lambda batch: batch)

    def ours(source: TrainingSamples, finish: Callable[[dict], Any]) -> None:
        entries = (source[number, number] for number in range(len(paths)))
        in_batches(entries, batch_size, finish)

    return {
        "plain, colours at full size": partial(plain, resize_first=False),
        "plain, resized first": partial(plain, resize_first=True),
        "decoding alone": lambda: [read_image(path) for path in paths],
        "loader": partial(ours, samples, lambda batch: batch),
        "loader and both views": partial(ours, samples, colour_views),
        "loader with cache": partial(ours, kept, lambda batch: batch),
        "loader with cache and both views": partial(ours, kept, colour_views),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, help="folder of pictures instead of made ones")
    parser.add_argument("--image-size", type=int, nargs=2, default=[192, 640], metavar=("H", "W"))
    parser.add_argument("--num-images", type=int, default=24)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    size = tuple(args.image_size)
    with tempfile.TemporaryDirectory() as folder:
        root = args.images or Path(folder) / "pictures"
        if args.images is None:
            root.mkdir()
            write_pictures(root, args.num_images)
        frames = ImageFolder(root, "all")
        count = min(args.num_images, len(frames)) // args.batch_size * args.batch_size
        if not count:
            parser.error(f"{root}: fewer than a batch of {args.batch_size} pictures")
        paths = [frames.paths(index)["image"] for index in range(count)]
        first = frames.frame(0).image
        stored_bytes = sum(path.stat().st_size for path in paths)
        cached = cached_frames(frames, range(count), Path(folder) / "cache", image_size=size)
        variants = variants_of(paths, frames, cached, size, args.batch_size)
        seconds, others = seconds_in_turn(variants, rounds=args.rounds)
    result = {
        "pictures": "made" if args.images is None else "given",
        "num_images": count,
        "stored_size": [first.height, first.width],
        "bytes_a_picture": round(stored_bytes / count),
        "image_size": list(size),
        "batch_size": args.batch_size,
        "rounds": args.rounds,
        "processors_used_by_others": summary(others),
        "images_per_s_and_core": {
            name: summary([count / value for value in values]) for name, values in seconds.items()
        },
        "times_faster_than_plain": times_faster(seconds, than="plain, colours at full size"),
    }
    write_result(result, device=torch.device("cpu"), out=args.out)


if __name__ == "__main__":
    main()
