"""What a training shows of itself: scores on the validation frames, and pictures of some."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dotmap import DotMap

from datasets.splits import evenly, frame_ids_at
from evaluate import evaluate, trivial_floors
from evaluation_report import draw_frames
from frames import Stream
from networks import DepthNetwork
from predictions import Prediction, ground_truth_kinds, network_predictions
from utils.metrics import IncompleteError, table
from utils.processes import Process
from utils.runlog import RunLog
from utils.visualize import contact_sheet


class Monitor:
    """Looks at the network that is validated and saved.

    Args:
        network: the trained one, or its moving average.
        streams: "labeled" and "validation" are among them.
    """

    def __init__(
        self,
        cfg: DotMap,
        *,
        network: DepthNetwork,
        streams: Mapping[str, Stream],
        process: Process,
        log: RunLog,
    ):
        self.cfg, self.network, self.process, self.log = cfg, network, process, log
        self.labeled, self.validation = streams["labeled"], streams["validation"]
        dataset, indices = self.validation
        self.protocol = dataset.protocols(network.max_depth)[0]
        self.kind = ground_truth_kinds(dataset, indices[:1])[0]

    def scores(self, stop: Callable[[], bool]) -> dict[str, float] | None:
        """Of all validation frames in the first protocol, the same on all processes.

        Args:
            stop: asked before each frame; True leaves the frames that are left. With any frame
                left, on any process, the result is None on all.
        """
        dataset, indices = self.validation
        share = indices[self.process.rank :: self.process.world_size]
        with contextlib.closing(self.predict(dataset, share)) as predictions:
            try:
                return evaluate(
                    itertools.takewhile(lambda _: not stop(), predictions),
                    frame_ids_at(dataset, indices), protocols=[self.protocol], kinds=[self.kind],
                    scalings=[False],
                )[self.kind, self.protocol.name, False].mean()  # fmt: skip
            except IncompleteError:
                return None

    def predict(self, dataset: Any, indices: Sequence[int]) -> Iterator[Prediction]:
        """What the network says of frames."""
        return network_predictions(
            self.network, dataset, indices, device=self.process.device,
            batch_size=self.cfg.evaluation.batch_size, num_workers=self.cfg.train.num_workers,
            flip=self.cfg.evaluation.flip, own_ground_truth_only=True,
        )  # fmt: skip

    def draw(self, folder: Path, done: int, more: Mapping[str, Callable[[Path], None]]) -> None:
        """<folder>/step_XXXXXX.png, and what `more` writes beside it by name.

        A disk that is full costs a picture, not the run.
        """
        dataset, indices = self.validation
        shown = evenly(indices, self.cfg.samples.num_images)
        if not shown:
            return

        def write_samples(path: Path) -> None:
            contact_sheet(list(draw_frames(self.predict, dataset, shown).values())).save(path)

        for name, write in {"samples": write_samples, **more}.items():
            suffix = "" if name == "samples" else f"_{name}"
            path = folder / f"step_{done:06d}{suffix}.png"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write(path)
            except OSError as error:
                path.unlink(missing_ok=True)
                self.log.say(f"{path}: could not be drawn ({error}); training goes on")
            if path.is_file():  # there may have been nothing to show
                self.log.log_picture(done, path, name)

    def summary(self, best: Mapping[str, float]) -> str:
        """The best validation beside predictions that never look at the image."""
        ours = {f"best, step {best['step']}": best}
        try:
            floors = trivial_floors(self.labeled, self.validation, self.protocol)
        except ValueError as error:  # labels without any depth
            return f"{table(ours)}\nno floors: {error}"
        return table(ours | {f"floor: {name}": row for name, row in floors.items()})
