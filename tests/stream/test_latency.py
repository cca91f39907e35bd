"""Latency: what each stage took and what they took together."""

from __future__ import annotations

import pytest

from stream.frame import STAGES
from stream.latency import Latency

MS = 1_000_000


def row(*ms: float) -> list[int]:
    assert len(ms) == len(STAGES)
    return [round(value * MS) for value in ms]


def test_a_stage_takes_what_lies_between_its_end_and_the_end_before_it() -> None:
    latency = Latency()
    latency.add(row(1, 3, 13, 14, 14.5, 15))
    took = {stage: figures["p50"] for stage, figures in latency.stages_ms().items()}
    assert took == pytest.approx(
        {"capture": 1, "queue": 2, "engine": 10, "detect": 1, "track": 0.5, "publish": 0.5}, rel=2e-3
    )
    assert latency.end_to_end_ms()["max"] == pytest.approx(15, rel=2e-3)


def test_percentiles_are_those_of_the_frames() -> None:
    latency = Latency()
    for number in range(1, 1001):
        latency.add(row(*[number] * len(STAGES)))
    figures = latency.end_to_end_ms()
    assert figures == pytest.approx({"p50": 500, "p90": 900, "p99": 990, "p999": 999, "max": 1000}, rel=2e-3)


def test_streams_together_are_the_sum_of_their_frames() -> None:
    fast, slow, both = Latency(), Latency(), Latency()
    for _ in range(90):
        fast.add(row(1, 1, 1, 1, 1, 1))
    for _ in range(10):
        slow.add(row(50, 50, 50, 50, 50, 50))
    both.merge(fast)
    both.merge(slow)
    assert both.end_to_end_ms()["p50"] == pytest.approx(1, rel=2e-3)
    assert both.end_to_end_ms()["p99"] == pytest.approx(50, rel=2e-3)


def test_without_frames_every_figure_is_zero() -> None:
    assert set(Latency().end_to_end_ms().values()) == {0.0}
