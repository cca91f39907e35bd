"""The wire format, version 1: what subscribers get.

Every message has two ZeroMQ frames, ``[topic, payload]``; the payload is a MessagePack map.
Fields may be added in version 1, never changed.
"""

from __future__ import annotations

import msgspec

TRACKS_SCHEMA = "irstream.tracks/1"
DETECTIONS_SCHEMA = "irstream.detections/1"
TRUTH_SCHEMA = "irstream.truth/1"
STATUS_SCHEMA = "irstream.status/1"
MAX_MESSAGE_BYTES = 4 * 1024 * 1024
"""What a subscriber takes at most: 10,000 tracks, the most that a stream may have, fill 3 MB."""


class WireTrack(msgspec.Struct, kw_only=True):
    """One track in one frame.

    Attributes:
        id: of the track, unique within its stream.
        state: ``tentative``, ``confirmed`` or ``coasting`` (confirmed, but not seen in this frame).
        x: pixels from the centre of the leftmost pixel.
        y: pixels from the centre of the topmost pixel.
        vx: pixels per second.
        vy: pixels per second.
        cov: covariance of (x, y, vx, vy), row by row, 16 values.
        score: log-likelihood ratio of track against clutter.
        area: of its last detection, pixels.
        peak: of its last detection, probability.
        scr: signal-to-clutter ratio of its last detection.
        hits: frames it was seen in.
        age: frames since its first.
    """

    id: int
    state: str
    x: float
    y: float
    vx: float
    vy: float
    cov: list[float]
    score: float
    area: float
    peak: float
    scr: float
    hits: int
    age: int


class TracksMessage(msgspec.Struct, kw_only=True):
    """Topic ``tracks/<stream>``: the tracks of one frame.

    Attributes:
        schema: ``irstream.tracks/1``.
        stream: name of the stream.
        seq: number of the frame at its source, from 0; gaps are drops.
        captured_utc_ns: when the frame's last byte was there, ns since 1970 UTC.
        captured_ns: the same moment on the monotonic clock of the host that runs the pipeline.
        published_ns: when this message was handed to ZeroMQ, on the same clock.
        width: of the frame, pixels.
        height: of the frame, pixels.
        dropped: frames dropped since the last message, by reason.
        stages: ns since capture at the end of each stage, by its name.
        tracks: the tracks, tentative ones included.
        camera_ns: the source's own time of the frame, ns from where it began to count; None if it has none.
        camera_utc_ns: the camera's wall clock for it, ns since 1970 UTC; None if it tells none.
        published: frames of the stream that were published so far, this one among them; 0 if that is not told.
    """

    schema: str = TRACKS_SCHEMA
    stream: str
    seq: int
    captured_utc_ns: int
    captured_ns: int
    published_ns: int
    width: int
    height: int
    dropped: dict[str, int]
    stages: dict[str, int]
    tracks: list[WireTrack]
    camera_ns: int | None = None
    camera_utc_ns: int | None = None
    published: int = 0


class WireDetection(msgspec.Struct, kw_only=True):
    """One detection in one frame.

    Attributes:
        x: pixels from the centre of the leftmost pixel.
        y: pixels from the centre of the topmost pixel.
        area: pixels.
        peak: largest probability.
        score: in [0, 1]: mean probability, weighed by how far the target stands out.
        scr: local signal-to-clutter ratio.
    """

    x: float
    y: float
    area: float
    peak: float
    score: float
    scr: float


class DetectionsMessage(msgspec.Struct, kw_only=True):
    """Topic ``detections/<stream>``: what the tracker was given of one frame; made only while someone subscribes.

    Attributes:
        schema: ``irstream.detections/1``.
        stream: name of the stream.
        seq: number of the frame at its source, from 0.
        time_ns: the time that the stream's tracker goes by.
        detections: in no particular order.
    """

    schema: str = DETECTIONS_SCHEMA
    stream: str
    seq: int
    time_ns: int
    detections: list[WireDetection]


class WirePoint(msgspec.Struct, kw_only=True):
    """A target that a synthetic source put into a frame; x and y in pixels."""

    id: int
    x: float
    y: float


class TruthMessage(msgspec.Struct, kw_only=True):
    """Topic ``truth/<stream>``: the true targets of one frame of a synthetic source."""

    schema: str = TRUTH_SCHEMA
    stream: str
    seq: int
    targets: list[WirePoint]


class StatusMessage(msgspec.Struct, kw_only=True):
    """Topic ``status/<stream>``, once a second.

    Attributes:
        schema: ``irstream.status/1``.
        stream: name of the stream.
        health: ``ok``, ``silent`` (no frame in the last two seconds) or ``ended``.
        frames: published so far.
        fps: published a second, over the last two.
        dropped: so far, by reason.
        latency_ms: of the last second, capture to publish: ``p50``, ``p99`` and ``max``.
        tracks: confirmed tracks in the last frame.
        ring: where a process of the same user on the same host finds the stream's frames; see ``stream/ring.py``.
        restarts: how often a worker that the stream needs was replaced so far, by the worker and the reason.
    """

    schema: str = STATUS_SCHEMA
    stream: str
    health: str
    frames: int
    fps: float
    dropped: dict[str, int]
    latency_ms: dict[str, float]
    tracks: int
    ring: str = ""
    restarts: dict[str, int] = msgspec.field(default_factory=dict)


WireMessage = TracksMessage | DetectionsMessage | TruthMessage | StatusMessage
_TYPES: dict[str, type[WireMessage]] = {
    "tracks": TracksMessage,
    "detections": DetectionsMessage,
    "truth": TruthMessage,
    "status": StatusMessage,
}
KINDS = tuple(_TYPES)
_encoder = msgspec.msgpack.Encoder()


def encode(message: WireMessage) -> tuple[str, bytes]:
    """Return a message's topic and payload."""
    kind = next(name for name, cls in _TYPES.items() if isinstance(message, cls))
    return f"{kind}/{message.stream}", _encoder.encode(message)


def decode(topic: str, payload: bytes) -> WireMessage:
    """Return the message of a topic and its payload.

    Raises:
        ValueError: if it is none of this version's.
    """
    kind = topic.partition("/")[0]
    if kind not in _TYPES:
        raise ValueError(f"topic {topic!r}: not one of {', '.join(_TYPES)}")
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ValueError(f"topic {topic!r}: {len(payload)} bytes; at most {MAX_MESSAGE_BYTES} are expected")
    try:
        message: WireMessage = msgspec.msgpack.decode(payload, type=_TYPES[kind])
    except msgspec.DecodeError as error:
        raise ValueError(f"topic {topic!r}: {error}") from None
    except RecursionError:
        raise ValueError(f"topic {topic!r}: nested too deep") from None
    if message.schema != f"irstream.{kind}/1":
        raise ValueError(f"topic {topic!r}: schema {message.schema[:64]!r}; irstream.{kind}/1 is expected")
    return message
