"""Latency: how late each stage is done with a frame, in HDR histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hdrh.histogram import HdrHistogram

from engine.base import STEPS
from stream.frame import STAGES

LARGEST_US = 600_000_000  # ten minutes; a longer wait counts as this
DIGITS = 3
PERCENTILES = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p999": 99.9}


class Latency:
    """The latencies of one stream, or of several: capture to publish, and what each stage took."""

    def __init__(self) -> None:
        self._end_to_end = HdrHistogram(1, LARGEST_US, DIGITS)
        self._stages = {stage: HdrHistogram(1, LARGEST_US, DIGITS) for stage in STAGES}

    def add(self, since_capture_ns: Sequence[int]) -> None:
        """Count one frame: ns since capture at the end of each of ``STAGES``."""
        for stage, ns in spent_ns(dict(zip(STAGES, since_capture_ns, strict=True))).items():
            self._stages[stage].record_value(_microseconds(ns))
        self._end_to_end.record_value(_microseconds(since_capture_ns[-1]))

    def merge(self, other: Latency) -> None:
        """Count all that another has counted."""
        self._end_to_end.add(other._end_to_end)
        for stage in STAGES:
            self._stages[stage].add(other._stages[stage])

    def end_to_end_ms(self) -> dict[str, float]:
        """Return p50, p90, p99, p999 and max of capture to publish, ms."""
        return _summary(self._end_to_end)

    def stages_ms(self) -> dict[str, dict[str, float]]:
        """Return p50, p90, p99, p999 and max of the time that each stage took, ms."""
        return {stage: _summary(histogram) for stage, histogram in self._stages.items()}

    def distributions(self) -> dict[str, list[tuple[float, int]]]:
        """Return, by stage and ``end to end``, the latencies that were seen, ms, and how often, rising."""
        histograms = {**self._stages, "end to end": self._end_to_end}
        return {
            name: [
                (item.value_iterated_to / 1e3, item.count_added_in_this_iter_step)
                for item in histogram.get_recorded_iterator()
            ]
            for name, histogram in histograms.items()
        }


class DeviceLatency:
    """What an engine's device took over batches: nothing, of an engine that does not tell."""

    def __init__(self) -> None:
        self._steps = {step: HdrHistogram(1, LARGEST_US, DIGITS) for step in STEPS}

    def add(self, rows_ms: Sequence[Sequence[float]]) -> None:
        """Count batches: a row each, ms in each of ``engine.base.STEPS``."""
        for row in rows_ms:
            for step, ms in zip(STEPS, row, strict=True):
                self._steps[step].record_value(_microseconds(round(ms * 1e6)))

    def steps_ms(self) -> dict[str, dict[str, float]]:
        """Return p50, p90, p99, p999 and max of each step, ms; empty if no batch was counted."""
        return {step: _summary(counts) for step, counts in self._steps.items() if counts.get_total_count()}


def spent_ns(since_capture_ns: Mapping[str, int]) -> dict[str, int]:
    """Return what each of ``STAGES`` alone took of a frame, ns.

    Args:
        since_capture_ns: ns since capture at the end of each stage; one that is missing took none.
    """
    spent, before = {}, 0
    for stage in STAGES:
        at = since_capture_ns.get(stage, before)
        spent[stage], before = at - before, at
    return spent


def _microseconds(ns: int) -> int:
    return min(max(round(ns / 1e3), 1), LARGEST_US)


def _summary(histogram: HdrHistogram) -> dict[str, float]:
    if not histogram.get_total_count():
        return dict.fromkeys((*PERCENTILES, "max"), 0.0)
    figures = {name: histogram.get_value_at_percentile(p) / 1e3 for name, p in PERCENTILES.items()}
    return {**figures, "max": histogram.get_max_value() / 1e3}
