"""What travels between the workers: descriptors of frames, never their pixels."""

from __future__ import annotations

from multiprocessing.connection import Connection

import msgspec

from stream.channel import Channel

RESTART = "restart"
"""Why a frame was dropped: it was with a worker that died or was ended, or came while there was none."""

REPORT_NS = 250_000_000  # between a worker's reports to the supervisor

STAGES = ("capture", "queue", "engine", "detect", "track", "publish")
"""The stages of a frame, in order; its time at a stage is when that stage was done with it."""


class FrameRef(msgspec.Struct, tag="frame", array_like=True):
    """A frame in a slot of its stream's ring, and all that is known of it so far.

    Attributes:
        stream: index of the stream in the configuration.
        slot: where in the ring its pixels and its target map are.
        seq: number of the frame at its source, from 0; gaps are drops.
        width: pixels.
        height: pixels.
        bits: 8 or 16.
        live: whether it may be dropped for a fresher one.
        low: the pixel value that maps to 0.
        high: the pixel value that maps to 1.
        captured_ns: monotonic clock, when its last byte was there.
        captured_utc_ns: the same moment in UTC, ns since the epoch.
        camera_ns: the source's own time, if it has one.
        dropped: frames dropped since the stream's last frame, by reason.
        times: monotonic clock at the end of each stage, by its name.
        truth: id, x, y of the targets in it, where the source knows them.
        camera_utc_ns: the camera's wall clock for it, ns since 1970, if it told one.
    """

    stream: int
    slot: int
    seq: int
    width: int
    height: int
    bits: int
    live: bool
    low: float
    high: float
    captured_ns: int
    captured_utc_ns: int
    camera_ns: int | None
    dropped: dict[str, int]
    times: dict[str, int]
    truth: list[tuple[int, float, float]] | None
    camera_utc_ns: int | None = None


class Coming(msgspec.Struct, tag="coming", array_like=True):
    """Frames follow in a moment: a worker that was just awake takes less time to wake up and to get going."""


def own_time_ns(captured_ns: int, camera_ns: int | None, live: bool) -> int:
    """Return the time that a stream's filters go by: for a file that waits for us, its own, whatever our speed."""
    return captured_ns if live or camera_ns is None else camera_ns


class Hello(msgspec.Struct, tag="hello", array_like=True):
    """A source is open: what its frames will look like."""

    stream: int
    width: int
    height: int
    bits: int
    fps: float | None
    live: bool


class End(msgspec.Struct, tag="end", array_like=True):
    """A stream has ended. Who has seen it may see it again: it is repeated when a worker was replaced.

    Attributes:
        stream: index of the stream.
        seq: what the next frame's number would be.
        dropped: frames dropped since the last one, by reason.
        fault: what ended it, if a fault did.
    """

    stream: int
    seq: int
    dropped: dict[str, int]
    fault: str | None


class Release(msgspec.Struct, tag="release", array_like=True):
    """The slot of a frame is capture's again."""

    slot: int
    seq: int


class Restarted(msgspec.Struct, tag="restarted", array_like=True):
    """A worker was replaced: send a ``Sweep`` after the frames."""


class Sweep(msgspec.Struct, tag="sweep", array_like=True):
    """Follows a stream's frames through all workers and back to capture, to find the slots that a dead worker held.

    All slots of frames before ``seq`` are capture's again when it is back, but for those that are ``held``.
    """

    stream: int
    seq: int
    held: list[int]


class Go(msgspec.Struct, tag="go", array_like=True):
    """Everyone is ready: read."""


class Stop(msgspec.Struct, tag="stop", array_like=True):
    """Read no more; end the stream."""


class Loaded(msgspec.Struct, array_like=True):
    """A model that was loaded for frames of a depth, by the name and the weights that it has itself, and its engine."""

    bits: int
    engine: str
    model: str
    weights_sha256: str


class Ready(msgspec.Struct, tag="ready", array_like=True):
    """A worker is ready; infer says with what."""

    loaded: list[Loaded] = []


class DeviceTimes(msgspec.Struct, tag="device_times", array_like=True):
    """What an engine's device took over batches since the last such message: a row a batch, ms, by ``STEPS``."""

    rows: list[list[float]]


class Failed(msgspec.Struct, tag="failed", array_like=True):
    """A worker cannot go on; one line, for the user. ``bad_input`` tells a user's mistake from ours."""

    reason: str
    bad_input: bool


class TrackSummary(msgspec.Struct, array_like=True):
    """A confirmed track of a run.

    Attributes:
        id: of the track.
        start_s: when it was confirmed, seconds after the stream's first frame.
        end_s: when it was last there.
        frames: in which it was confirmed.
        coasted: of them, those in which it was not seen.
        path: where it went, x and y in pixels, thinned out.
    """

    id: int
    start_s: float
    end_s: float
    frames: int
    coasted: int
    path: list[tuple[float, float]]


class Passed(msgspec.Struct, tag="passed", array_like=True):
    """Frames of one stream that were published, for the books.

    Attributes:
        stream: index of the stream.
        published: frames published so far.
        latencies: a row a frame since the last such message: ns since capture at the end of each of ``STAGES``.
        dropped: frames dropped since the last such message, by reason.
        tracks: confirmed tracks in the last frame.
        confirmed: tracks confirmed so far.
        ended: True in the stream's last message.
        fault: what ended it, if a fault did.
        summaries: its longest tracks, in its last message.
    """

    stream: int
    published: int
    latencies: list[tuple[int, ...]]
    dropped: dict[str, int]
    tracks: int
    confirmed: int
    ended: bool
    fault: str | None
    summaries: list[TrackSummary] = []


class Publish(msgspec.Struct, tag="publish", array_like=True):
    """A message for the subscribers."""

    topic: str
    payload: bytes


class Tapped(msgspec.Struct, tag="tapped", array_like=True):
    """A frame and what was published of it, for a process that looks on; see ``stream/tap.py``.

    Attributes:
        frame: the frame; its slot is the reader's until it answers with ``Returned``.
        time_ns: the time that the stream's tracker goes by.
        messages: what was published of it.
        skipped: frames of the stream that went past since the last, because the reader did not answer.
    """

    frame: FrameRef
    time_ns: int
    messages: list[Publish]
    skipped: int


class TapEnd(msgspec.Struct, tag="tap_end", array_like=True):
    """A stream has ended; ``skipped`` as in ``Tapped``."""

    stream: int
    skipped: int


class Returned(msgspec.Struct, tag="returned", array_like=True):
    """The reader of a tap has read a frame; a ``slot`` of -1 means that it died with all that it had."""

    stream: int
    slot: int
    seq: int


class Recorded(msgspec.Struct, tag="recorded", array_like=True):
    """What was recorded of a stream since the last such message, and the frames that were not, by reason."""

    stream: int
    frames: int
    bytes: int
    dropped: dict[str, int]


Message = (
    FrameRef
    | Coming
    | Hello
    | End
    | Release
    | Restarted
    | Sweep
    | Go
    | Stop
    | Ready
    | DeviceTimes
    | Failed
    | Passed
    | Publish
    | Tapped
    | TapEnd
    | Returned
    | Recorded
)
Port = Channel | Connection

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Message)


def send(connection: Port, message: Message) -> None:
    """Send a message to another worker; one that has gone away is no error here: the supervisor sees to it."""
    try:
        connection.send_bytes(_encoder.encode(message))
    except (BrokenPipeError, ConnectionResetError):
        return


def try_send(connection: Channel, message: Message) -> bool:
    """Send a message unless the channel is full; return whether it is out of our hands."""
    try:
        return connection.try_send_bytes(_encoder.encode(message))
    except (BrokenPipeError, ConnectionResetError):
        return True


def receive(connection: Port) -> Message:
    """Return the next message; blocks until there is one.

    Raises:
        EOFError: if there is none and nobody holds the other end any more.
    """
    message: Message = _decoder.decode(connection.recv_bytes())
    return message
