"""Metrics of a run for Prometheus, counted from what the pipeline publishes; see ``docs/metrics.md``."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stream.frame import STAGES
from stream.latency import spent_ns
from stream.messages import StatusMessage, TracksMessage

SECONDS = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5,
    10,
)  # fmt: skip
STATES = ("tentative", "confirmed", "coasting")
HEALTHS = ("ok", "silent", "ended")


class Metrics(Collector):
    """What is counted, by stream: latency and stages as they happen, the rest from each second's status."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self._stage = Histogram(
            "irstream_stage_seconds",
            "How long a stage kept a frame; 'queue' is its age when the engine took it, 'engine' the engine's time.",
            ("stream", "stage"), buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._latency = Histogram(
            "irstream_latency_seconds", "From a frame's capture to its message.",
            ("stream",), buckets=SECONDS, registry=self._registry,
        )  # fmt: skip
        self._children: dict[str, tuple[Histogram, tuple[Histogram, ...]]] = {}
        self._status: dict[str, StatusMessage] = {}
        self._last: dict[str, tuple[float, TracksMessage]] = {}
        self._registry.register(self)

    def add(self, message: TracksMessage) -> None:
        """Count a frame."""
        name = message.stream
        if name not in self._children:
            stages = tuple(self._stage.labels(name, stage) for stage in STAGES)
            self._children[name] = (self._latency.labels(name), stages)
        latency, stages = self._children[name]
        latency.observe((message.published_ns - message.captured_ns) / 1e9)
        for child, ns in zip(stages, spent_ns(message.stages).values(), strict=True):
            child.observe(max(ns, 0) / 1e9)
        self._last[name] = time.monotonic(), message

    def say(self, status: StatusMessage) -> None:
        """Take in a stream's status."""
        self._status[status.stream] = status

    def forget(self, stream: str) -> None:
        """Leave out a stream that is no more."""
        self._status.pop(stream, None)
        self._last.pop(stream, None)
        if self._children.pop(stream, None):
            self._latency.remove(stream)
            for stage in STAGES:
                self._stage.remove(stream, stage)

    def text(self) -> bytes:
        """Return all of it in Prometheus's text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield what is known from the last messages."""
        frames = CounterMetricFamily("irstream_frames", "Frames that became a message.", labels=["stream"])
        dropped = CounterMetricFamily(
            "irstream_dropped_frames", "Frames that did not, by reason.", labels=["stream", "reason"]
        )
        restarts = CounterMetricFamily(
            "irstream_restarts", "Workers of the stream's that were replaced, by reason.", labels=["stream", "reason"]
        )
        health = GaugeMetricFamily("irstream_health", "1 for what the stream is.", labels=["stream", "health"])
        for name, status in self._status.items():
            frames.add_metric([name], status.frames)
            for reason, count in status.dropped.items():
                dropped.add_metric([name, reason], count)
            for reason, count in status.restarts.items():
                restarts.add_metric([name, reason], count)
            for each in sorted({*HEALTHS, status.health}):
                health.add_metric([name, each], float(status.health == each))
        tracks = GaugeMetricFamily("irstream_tracks", "Tracks in the last frame.", labels=["stream", "state"])
        age = GaugeMetricFamily("irstream_last_frame_age_seconds", "Since the last frame's message.", labels=["stream"])
        now = time.monotonic()
        for name, (heard, message) in self._last.items():
            age.add_metric([name], now - heard)
            for state in STATES:
                tracks.add_metric([name, state], sum(track.state == state for track in message.tracks))
        yield from (frames, dropped, restarts, health, tracks, age)
