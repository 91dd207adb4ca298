"""Counts of a run that a checkpoint keeps, so that a resumed run goes on counting. Ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunProgress:
    """How far a run is beside its step.

    Attributes:
        samples: by stream, of all processes: number of the next sample. Order and augmentation
            follow from it, so that a run which goes on with other batches or processes neither
            repeats nor leaves out a frame.
        skipped_steps: steps whose loss or gradient was not finite.
        skipped_in_a_row: of these, the ones at the end.
        replaced_frames: broken ones for which others were drawn, of all processes.
        awaits_validation: whether one was due after the step and did not come to its end.
    """

    samples: dict[str, int] = field(default_factory=dict)
    skipped_steps: int = 0
    skipped_in_a_row: int = 0
    replaced_frames: int = 0
    awaits_validation: bool = False

    @classmethod
    def of_checkpoint(
        cls, saved: Mapping[str, Any] | None, samples_per_step: Mapping[str, int], *, step: int
    ) -> RunProgress:
        """As saved; of an earlier version, or at the start (None), samples follow from `step`."""
        progress = cls(**(saved or {}))
        counted = {name: step * number for name, number in samples_per_step.items()}
        progress.samples = counted | progress.samples
        return progress

    def count(self, samples: Mapping[str, int]) -> None:
        """Samples that were learned from, by stream."""
        for name, number in samples.items():
            self.samples[name] += number

    def note(self, finite: bool) -> bool:
        """That a step was finite or not; the same back."""
        self.skipped_steps += not finite
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        return finite

    def plain(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return dataclasses.asdict(self)
