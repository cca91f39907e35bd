"""What a pipeline publishes, kept for those who look: the last frame of each stream and its last minutes."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zmq
import zmq.asyncio
from numpy.typing import NDArray

from stream import StreamError
from stream.client import set_up
from stream.curve import ClientKeys
from stream.latency import spent_ns
from stream.messages import StatusMessage, TracksMessage, decode
from stream.metrics import Metrics
from stream.ring import RingReader
from stream.web.pictures import Layer, Picture

SPAN_S = 300  # what "the last minutes" are
AWAY_S = 4.0  # without a message, a pipeline has gone away: it says how it is once a second
FORGET_S = 30.0  # streams that a pipeline which came back no longer has

log = logging.getLogger(__name__)


@dataclass
class Second:
    """One second of a stream.

    Attributes:
        at: its end, seconds since 1970 UTC.
        late_ms: of each of its frames, capture to publish.
        p50: of them; None if there was no frame.
        p99: of them.
    """

    at: int
    late_ms: NDArray[np.float32]
    p50: float | None
    p99: float | None

    @property
    def point(self) -> list[float | None]:
        return [self.at, self.p50, self.p99, len(self.late_ms)]


@dataclass
class StreamState:
    """What is known of one stream.

    Attributes:
        name: of the stream.
        heard: when it was last heard of, monotonic clock, seconds.
        status: its last.
        last: its last frame's tracks.
        seconds: the last minutes.
    """

    name: str
    heard: float = 0.0
    status: StatusMessage | None = None
    last: TracksMessage | None = None
    seconds: deque[Second] = field(default_factory=lambda: deque(maxlen=SPAN_S))
    _late_ms: list[float] = field(default_factory=list)
    _stages_ns: dict[str, int] = field(default_factory=dict)
    _stages_ms: dict[str, float] = field(default_factory=dict)
    _ring: RingReader | None = None
    _pictures: dict[Layer, tuple[int, Picture | None]] = field(default_factory=dict)

    def add(self, message: TracksMessage) -> None:
        """Take in a frame's tracks."""
        self.heard, self.last = time.monotonic(), message
        self._late_ms.append((message.published_ns - message.captured_ns) / 1e6)
        for stage, ns in spent_ns(message.stages).items():
            self._stages_ns[stage] = self._stages_ns.get(stage, 0) + ns

    def say(self, status: StatusMessage) -> None:
        """Take in a status; a new run's frames are in another ring."""
        self.heard = time.monotonic()
        if self._ring is None or self.status is None or self.status.ring != status.ring:
            try:
                self._ring = RingReader(status.ring)
            except (OSError, ValueError):  # another host's or another user's
                self._ring = None
        self.status = status

    @property
    def has_pictures(self) -> bool:
        """Whether its frames can be had."""
        return self._ring is not None

    def picture(self, layer: Layer) -> Picture | None:
        """Return the last frame's picture; None if its slot was given to another frame, or it cannot be had."""
        if self.last is None or self._ring is None:
            return None
        seq, picture = self._pictures.get(layer, (-1, None))
        if seq != self.last.seq:
            copied = self._ring.copy(self.last.seq, self.last.height, self.last.width, layer == "targets")
            picture = Picture(*copied, layer) if copied else None
            self._pictures[layer] = (self.last.seq, picture)
        return picture

    def tick(self) -> None:
        """End a second."""
        if self.health() == "away":
            self._ring = None  # its memory lives as long as someone maps it
        late = np.array(self._late_ms, np.float32)
        p50, p99 = (round(float(p), 3) for p in np.percentile(late, (50, 99))) if len(late) else (None, None)
        self.seconds.append(Second(int(time.time()), late, p50, p99))
        self._stages_ms = {stage: round(ns / max(len(late), 1) / 1e6, 3) for stage, ns in self._stages_ns.items()}
        self._late_ms, self._stages_ns = [], {}

    def health(self) -> str:
        """Return its health as its pipeline says it, or ``away`` if that is not heard of."""
        said = self.status.health if self.status else "ok"
        return said if said == "ended" or time.monotonic() - self.heard < AWAY_S else "away"

    def describe(self) -> dict[str, Any]:
        """Return what a browser shows of it."""
        status, last = self.status, self.last
        late = np.concatenate([second.late_ms for second in self.seconds] or [np.zeros(0, np.float32)])
        p50, p99 = np.percentile(late, (50, 99)).tolist() if len(late) else (None, None)
        return {
            "name": self.name,
            "health": self.health(),
            "size": [last.width, last.height] if last else None,
            "fps": status.fps if status else 0.0,
            "frames": status.frames if status else 0,
            "dropped": status.dropped if status else {},
            "restarts": status.restarts if status else {},
            "tracks": status.tracks if status else 0,
            "p50": p50,
            "p99": p99,
            "max": float(late.max()) if len(late) else None,
            "span_s": sum(second.p50 is not None for second in self.seconds),
            "stages_ms": self._stages_ms,
            "pictures": self.has_pictures,
            "point": self.seconds[-1].point if self.seconds else None,
        }


class Feed:
    """A subscriber that keeps what it hears, and goes on when the pipeline goes away and comes back.

    Args:
        endpoint: where the pipeline publishes.
        keys: where the pipeline asks for them.
        metrics: what counts it.
        frame: called with a stream that has a new frame.
    """

    def __init__(
        self, endpoint: str, keys: ClientKeys | None, metrics: Metrics, frame: Callable[[StreamState], None]
    ) -> None:
        self.endpoint, self.keys, self.metrics, self.frame = endpoint, keys, metrics, frame
        self.streams: dict[str, StreamState] = {}
        self.started = time.monotonic()
        self._refused: set[str] = set()

    async def run(self) -> None:
        """Listen for ever."""
        context = zmq.asyncio.Context()
        socket = context.socket(zmq.SUB)
        set_up(socket, self.keys)
        try:
            socket.connect(self.endpoint)
            # Tracks only once the run has begun: `--wait-for` counts those who wait for them, and we are not meant.
            socket.subscribe("status/")
            topic, payload = await socket.recv_multipart()
            socket.subscribe("tracks/")
            while True:
                self._take_in(topic, payload)
                topic, payload = await socket.recv_multipart()
        finally:
            socket.close(linger=0)
            context.term()

    def _take_in(self, topic: bytes, payload: bytes) -> None:
        try:
            message = decode(topic.decode(), payload)
        except (ValueError, UnicodeDecodeError) as error:
            kind = topic.decode(errors="replace").partition("/")[0]
            if kind not in self._refused:
                self._refused.add(kind)
                log.warning("%s: not understood, left out: %s", self.endpoint, error)
            return
        state = self.streams.setdefault(message.stream, StreamState(message.stream))
        if isinstance(message, TracksMessage):
            state.add(message)
            self.metrics.add(message)
            self.frame(state)
        elif isinstance(message, StatusMessage):
            state.say(message)
            self.metrics.say(message)

    def tick(self) -> None:
        """End a second of every stream; forget those that a pipeline which came back no longer has."""
        now = time.monotonic()
        newest = max((state.heard for state in self.streams.values()), default=0.0)
        for name, state in list(self.streams.items()):
            if now - newest < AWAY_S and newest - state.heard > FORGET_S and state.health() != "ended":
                del self.streams[name]
                self.metrics.forget(name)
            else:
                state.tick()

    @property
    def away(self) -> bool:
        """Whether nothing has been heard for a while."""
        return all(time.monotonic() - state.heard > AWAY_S for state in self.streams.values())

    def history(self) -> dict[str, list[list[float | None]]]:
        """Return the last minutes of every stream: time, p50, p99 and frames of each second."""
        return {name: [second.point for second in state.seconds] for name, state in self.streams.items()}

    def describe(self) -> dict[str, Any]:
        """Return what a browser shows of all streams."""
        return {
            "kind": "state",
            "endpoint": self.endpoint,
            "away": self.away,
            "span_s": SPAN_S,
            "streams": [state.describe() for state in self.streams.values()],
        }


def check_endpoint(endpoint: str) -> None:
    """Refuse an endpoint that cannot be connected to.

    Raises:
        StreamError: saying what is expected.
    """
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    try:
        socket.connect(endpoint)
    except zmq.ZMQError as error:
        raise StreamError(f"--connect {endpoint}: {error.strerror}; tcp://HOST:PORT is expected") from None
    finally:
        socket.close(linger=0)
        context.term()


def connectable(endpoint: str) -> str:
    """Return where to connect to what was bound: this host, if it was bound on every address."""
    for every in ("tcp://*:", "tcp://0.0.0.0:", "tcp://[::]:"):
        if endpoint.startswith(every):
            return f"tcp://127.0.0.1:{endpoint.removeprefix(every)}"
    return endpoint
