"""The metrics: what Prometheus is told is what the messages said."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stream.frame import STAGES
from stream.messages import StatusMessage, TracksMessage, WireTrack
from stream.metrics import Metrics

DASHBOARD = Path(__file__).parents[2] / "configs" / "grafana.json"
MS = 1_000_000


def tracks(seq: int, stages_ms: tuple[float, ...], *states: str, stream: str = "sky") -> TracksMessage:
    stages = {stage: round(at * MS) for stage, at in zip(STAGES, stages_ms, strict=True)}
    found = [
        WireTrack(
            id=i, state=state, x=0, y=0, vx=0, vy=0, cov=[0.0] * 16, score=0, area=1, peak=1, scr=1, hits=1, age=1
        )
        for i, state in enumerate(states)
    ]
    return TracksMessage(
        stream=stream, seq=seq, captured_utc_ns=0, captured_ns=0, published_ns=stages["publish"], width=8, height=8,
        dropped={}, stages=stages, tracks=found,
    )  # fmt: skip


def status(stream: str = "sky", **given: object) -> StatusMessage:
    values: dict = {"health": "ok", "frames": 2, "fps": 1.0, "dropped": {}, "latency_ms": {}, "tracks": 0}
    return StatusMessage(stream=stream, **(values | given))


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and its labels' values, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


@pytest.fixture
def metrics() -> Metrics:
    made = Metrics()
    made.add(tracks(0, (1, 3, 13, 14, 15, 15.5), "confirmed", "tentative"))
    made.add(tracks(1, (1, 6, 26, 27, 28, 29.0), "confirmed", "coasting", "confirmed"))
    made.say(status(dropped={"superseded": 3, "no free slot": 1}, restarts={"track died": 2}))
    return made


def test_a_stage_counts_what_it_alone_took(metrics: Metrics) -> None:
    """Messages give times since capture; of the two frames the engine took 10 and 20 ms, the queue 2 and 5."""
    found = samples(metrics)
    assert found["irstream_stage_seconds_count", "engine", "sky"] == 2
    assert found["irstream_stage_seconds_sum", "engine", "sky"] == pytest.approx(0.030)
    assert found["irstream_stage_seconds_sum", "queue", "sky"] == pytest.approx(0.007)
    assert found["irstream_latency_seconds_sum", "sky"] == pytest.approx(0.0445)
    assert found["irstream_latency_seconds_bucket", "0.02", "sky"] == 1


def test_drops_restarts_health_and_tracks_are_those_of_the_last_messages(metrics: Metrics) -> None:
    found = samples(metrics)
    assert found["irstream_frames_total", "sky"] == 2
    assert found["irstream_dropped_frames_total", "superseded", "sky"] == 3
    assert found["irstream_dropped_frames_total", "no free slot", "sky"] == 1
    assert found["irstream_restarts_total", "track died", "sky"] == 2
    assert (found["irstream_health", "ok", "sky"], found["irstream_health", "silent", "sky"]) == (1, 0)
    assert [found["irstream_tracks", state, "sky"] for state in ("confirmed", "coasting", "tentative")] == [2, 1, 0]
    assert 0 <= found["irstream_last_frame_age_seconds", "sky"] < 60


def test_a_stream_that_is_forgotten_leaves_nothing(metrics: Metrics) -> None:
    metrics.forget("sky")
    assert not any("sky" in labels for labels in samples(metrics))


def test_the_dashboard_asks_for_what_there_is(metrics: Metrics) -> None:
    """Every metric that a panel of the Grafana dashboard names is one that we serve."""
    asked = set(re.findall(r"irstream_\w+", json.dumps(json.loads(DASHBOARD.read_text())["panels"])))
    served = {family.name for family in text_string_to_metric_families(metrics.text().decode())}
    assert asked
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked} <= served
