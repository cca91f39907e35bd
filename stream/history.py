"""The history of a stream: rates, drops and latencies over time, in bounded memory however long the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

MOST_BINS = 512
FIRST_SPAN_S = 1.0
OCTAVES, STEPS = 23, 8  # latency buckets: from 0.1 ms in eighths of an octave, so within 5 %
SMALLEST_MS = 0.1


@dataclass
class Bin:
    """What passed in one span of time.

    Attributes:
        published: frames.
        dropped: frames.
        latencies: published frames by bucket of latency, capture to publish.
        max_ms: their largest latency.
    """

    published: int = 0
    dropped: int = 0
    latencies: NDArray[np.int32] = field(default_factory=lambda: np.zeros(OCTAVES * STEPS, np.int32))
    max_ms: float = 0.0

    def merge(self, other: Bin) -> None:
        """Add what passed in another span."""
        self.published += other.published
        self.dropped += other.dropped
        self.latencies = self.latencies + other.latencies
        self.max_ms = max(self.max_ms, other.max_ms)

    def percentile_ms(self, percent: float) -> float | None:
        """Return a percentile of the latencies, ms, within 5 %; None if no frame passed."""
        if not self.published:
            return None
        ranks = np.cumsum(self.latencies)
        bucket = int(np.searchsorted(ranks, max(1.0, percent / 100 * ranks[-1])))
        return min(SMALLEST_MS * 2 ** ((bucket + 0.5) / STEPS), self.max_ms)


class History:
    """A stream's bins, a second each until there are too many; then each has twice the span."""

    def __init__(self) -> None:
        self.span_s = FIRST_SPAN_S
        self.bins: list[Bin] = []

    def add(self, at_s: float, latencies_ns: Sequence[int], dropped: int) -> None:
        """Count frames that passed ``at_s`` seconds after the start."""
        while max(0.0, at_s) >= MOST_BINS * self.span_s:
            self._halve()
        index = int(max(0.0, at_s) / self.span_s)
        while len(self.bins) <= index:
            self.bins.append(Bin())
        here = self.bins[index]
        here.published += len(latencies_ns)
        here.dropped += dropped
        if latencies_ns:
            ms = np.asarray(latencies_ns, np.float64) / 1e6
            buckets = (STEPS * np.log2(np.maximum(ms, SMALLEST_MS) / SMALLEST_MS)).astype(np.int64)
            np.add.at(here.latencies, np.minimum(buckets, OCTAVES * STEPS - 1), 1)
            here.max_ms = max(here.max_ms, float(ms.max()))

    def _halve(self) -> None:
        for left, right in zip(self.bins[::2], self.bins[1::2], strict=False):
            left.merge(right)
        self.bins = self.bins[::2]
        self.span_s *= 2
