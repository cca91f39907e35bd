"""Samples in shared memory: a process that draws crops of hundreds of megabytes gets them at once, without a copy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from training.data import Sample, Scene


class SharedSamples(Sequence["Sample | Scene"]):
    """A sequence of samples whose pixels every process sees where they are; what stands in it twice is there once."""

    def __init__(self, samples: Sequence[Sample | Scene]) -> None:
        unique = {id(sample): sample for sample in samples}
        places = {key: place for place, key in enumerate(unique)}
        self._order = np.array([places[id(sample)] for sample in samples])
        self._scenes = {place: s for place, s in enumerate(unique.values()) if isinstance(s, Scene)}
        self._frames, self._masks = (
            _joined([getattr(s, part) for s in unique.values() if isinstance(s, Sample)]) for part in ("frame", "mask")
        )
        self._entries: dict[int, tuple[str, int, tuple[int, ...], Any]] = {}
        start = 0
        for place, sample in enumerate(unique.values()):
            if isinstance(sample, Sample):
                self._entries[place] = (sample.name, start, sample.frame.shape, sample.boxes)
                start += sample.frame.size
        self._made: dict[int, Sample] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # what a process has looked for, each looks for itself

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> Sample | Scene: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample | Scene]: ...
    def __getitem__(self, index: int | slice) -> Sample | Scene | list[Sample | Scene]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = int(self._order[index])
        if place in self._scenes:
            return self._scenes[place]
        if place not in self._made:
            name, start, shape, boxes = self._entries[place]
            frame, mask = (
                part[start : start + int(np.prod(shape))].numpy().reshape(shape) for part in (self._frames, self._masks)
            )
            self._made[place] = Sample(name, frame, mask, boxes)
        return self._made[place]


def _joined(parts: list[Any]) -> Tensor:
    if not parts:
        return torch.empty(0, dtype=torch.uint8)
    joined = torch.from_numpy(np.concatenate([part.ravel() for part in parts]))
    joined.share_memory_()  # type: ignore[no-untyped-call]
    return joined
