"""The books of a run: what every stream gave, what became of it, and how late it was."""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from dataclasses import dataclass, field

from stream.frame import RESTART, Hello, Loaded, Passed, Recorded, TrackSummary
from stream.history import History
from stream.latency import DeviceLatency, Latency
from stream.messages import StatusMessage

RATE_SPAN_S = 2.0  # a rate is a count over a span: the mean of gaps swings when frames come in bursts


@dataclass
class StreamBook:
    """One stream's books.

    Attributes:
        name: of the stream.
        source: as configured.
        hello: what its source said of itself; None until it is open.
        published: frames that became a message.
        dropped: frames that did not, by reason.
        tracks: confirmed tracks in the last frame.
        confirmed: tracks confirmed so far.
        ended: whether its last frame has passed.
        fault: what ended it, if a fault did.
        latency: since the start.
        started: when its frames began, on the monotonic clock, seconds.
        stopped: when its last one was published.
        recorded: frames that were recorded.
        recorded_bytes: what they and their messages took on disk.
        not_recorded: frames that were published but not recorded, by reason.
        history: rates, drops and latencies over time.
        summaries: its longest tracks, once it has ended.
        ring: where its frames are, for who looks on.
        loaded: what infer has loaded, for all streams.
        device: what the engine's device took over batches, for all streams.
        restarts: how often a worker that it needs was replaced, by the worker and the reason.
    """

    name: str
    source: str
    hello: Hello | None = None
    published: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    tracks: int = 0
    confirmed: int = 0
    ended: bool = False
    fault: str | None = None
    latency: Latency = field(default_factory=Latency)
    started: float = 0.0
    stopped: float = 0.0
    recorded: int = 0
    recorded_bytes: int = 0
    not_recorded: Counter[str] = field(default_factory=Counter)
    ring: str = ""
    history: History = field(default_factory=History)
    summaries: list[TrackSummary] = field(default_factory=list)
    loaded: list[Loaded] = field(default_factory=list)
    device: DeviceLatency = field(default_factory=DeviceLatency)
    restarts: Counter[str] = field(default_factory=Counter)
    _confirmed_before: int = 0  # by trackers that died
    _recent: deque[tuple[float, int]] = field(default_factory=deque)
    _second: list[int] = field(default_factory=list)

    def add(self, passed: Passed) -> None:
        """Enter what the track worker reports."""
        now = time.monotonic()
        for row in passed.latencies:
            self.latency.add(row)
        self.history.add(now - self.started, [row[-1] for row in passed.latencies], sum(passed.dropped.values()))
        self.summaries = passed.summaries or self.summaries
        self._second += [row[-1] for row in passed.latencies]
        self._recent.append((now, len(passed.latencies)))
        self.published = passed.published
        self.dropped.update(passed.dropped)
        self.tracks, self.confirmed = passed.tracks, self._confirmed_before + passed.confirmed
        self.ended, self.fault = passed.ended, passed.fault
        if passed.latencies:
            self.stopped = now

    def tracker_died(self, published: int, passed: int) -> None:
        """Enter what the tracker had not reported: ``published`` frames of the ``passed`` that had come to it."""
        self.published = published
        if unknown := passed - self.frames:
            self.dropped[RESTART] += unknown
        self.tracks, self._confirmed_before = 0, self.confirmed

    def record(self, said: Recorded) -> None:
        """Enter what the recorder reports."""
        self.recorded += said.frames
        self.recorded_bytes += said.bytes
        self.not_recorded.update(said.dropped)

    def settle_recording(self) -> None:
        """Enter the frames that a recorder that died had: they are known only once all is over."""
        if self.restarts and (missing := self.published - self.recorded - self.not_recorded.total()) > 0:
            self.not_recorded[RESTART] += missing

    @property
    def ran(self) -> Loaded | None:
        """What its frames went through; None if nothing was loaded for them."""
        return next((each for each in self.loaded if self.hello and each.bits == self.hello.bits), None)

    @property
    def frames(self) -> int:
        """Frames that the source gave: every one of them was published or dropped."""
        return self.published + self.dropped.total()

    def fps(self) -> float:
        """Return the frames published a second, over the last two seconds."""
        now = time.monotonic()
        while self._recent and now - self._recent[0][0] > RATE_SPAN_S:
            self._recent.popleft()
        if len(self._recent) < 2:
            return 0.0
        # The first report's frames came before it: they do not belong to the span that it begins.
        frames = sum(count for _, count in self._recent) - self._recent[0][1]
        return frames / max(self._recent[-1][0] - self._recent[0][0], 1e-3)

    def mean_fps(self) -> float:
        """Return the frames published a second over the whole run."""
        span = self.stopped - self.started
        return self.published / span if span > 0 else 0.0

    def status(self) -> StatusMessage:
        """Return the status of the last second, for the subscribers, and begin the next."""
        ordered = sorted(self._second) or [0]
        self._second = []
        p50, p99, largest = (ordered[math.ceil(share * len(ordered)) - 1] / 1e6 for share in (0.5, 0.99, 1))
        fps = self.fps()
        return StatusMessage(
            stream=self.name,
            health="ended" if self.ended else "ok" if fps else "silent",
            frames=self.published,
            fps=round(fps, 3),
            dropped=dict(self.dropped),
            latency_ms={"p50": p50, "p99": p99, "max": largest},
            tracks=self.tracks,
            ring=self.ring,
            restarts=dict(self.restarts),
        )
