"""Frames from cameras on the network, through FFmpeg: RTSP, MPEG-TS over UDP, RTP or SRT, and HTTP."""

from __future__ import annotations

import logging
import random
import statistics
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import av
from av.codec.context import Flags as CodecFlags
from av.codec.context import Flags2 as CodecFlags2
from av.container import InputContainer

from stream.sources import MAX_SIDE, masked
from stream.sources.address import check_url
from stream.sources.base import EndOfSource, Source, SourceError, SourceFrame, SourceInfo
from stream.sources.lasting import BACKOFF_S, STEADY_S
from stream.sources.srt import SrtReader
from stream.sources.video import MAX_GAP_NS, luma

CONNECT_S = 5.0
"""How long a camera may take to answer."""
FIRST_FRAME_S = 10.0
"""How long it may take from there to its first frame; some give a key frame no sooner."""
SILENCE_S = 3.0
"""A camera that gives no frame for this long counts as away."""
CLOSE_S = 0.5
"""How long ``close`` waits for the reader; one that a silent peer holds up ends by itself at its time-out."""

_log = logging.getLogger(__name__)

# The parser ends a picture where the next one begins, a frame period late: the decoder, given slices, need not wait.
_UNPARSED = "noparse+nofillin"
_GEN_PTS, _NO_FILLIN, _NO_PARSE = 0x0001, 0x0010, 0x0020  # FFmpeg's AVFMT_FLAG_*
_RTSP = {
    "rtsp_flags": "prefer_tcp",  # loses nothing; UDP where the camera has no other
    "max_delay": "100000",
    "fpsprobesize": "0",
    "analyzeduration": "1",
}
_DATAGRAMS = {"buffer_size": "4194304", "overrun_nonfatal": "1", "analyzeduration": "500000"}
_HTTP_FORMATS = "mpegts,mpjpeg,matroska,webm,flv,nut,mjpeg"  # none that names other addresses to fetch from
_OPTIONS = {
    "rtsp": _RTSP | {"protocol_whitelist": "rtp,udp,tcp"},
    "rtsps": _RTSP | {"protocol_whitelist": "rtp,udp,tcp,tls"},
    "srt": {"analyzeduration": "500000"},
    "udp": _DATAGRAMS | {"protocol_whitelist": "udp"},
    "rtp": _DATAGRAMS | {"protocol_whitelist": "rtp,udp"},
    "http": {"analyzeduration": "500000", "seekable": "0", "protocol_whitelist": "http,tcp"},
    "https": {"analyzeduration": "500000", "seekable": "0", "protocol_whitelist": "http,https,tcp,tls"},
}
_FORMATS = {"rtsp": "rtsp", "rtsps": "rtsp", "srt": "mpegts", "udp": "mpegts", "rtp": "rtp"}
_TIMELESS = ("mpjpeg", "mjpeg")  # FFmpeg makes their times up, and their rate
_HIGHEST_FPS = 1000


@dataclass
class _Pace:
    """The rhythm of a stream, from the times of presentation.

    The median of the last steps is the period: cameras state rates that they do not keep.
    """

    period_ns: float | None
    steps: deque[int] = field(default_factory=lambda: deque(maxlen=31))
    last_ns: int | None = None

    def missed(self, at_ns: int | None) -> int:
        """Return how many frames should have come between the last one and that of ``at_ns``."""
        if at_ns is None:
            return 0
        step, self.last_ns = at_ns - (self.last_ns if self.last_ns is not None else at_ns), at_ns
        if not 0 < step <= MAX_GAP_NS:
            return 0
        missed = round(step / self.period_ns) - 1 if self.period_ns and len(self.steps) >= 5 else 0
        self.steps.append(step)
        self.period_ns = statistics.median(self.steps)
        return max(missed, 0)


@dataclass(frozen=True)
class _Arrival:
    """When a picture's last packet came, the camera's wall clock for it, and whether all of it is whole."""

    ns: int
    utc_ns: int | None
    whole: bool


@dataclass(frozen=True)
class _Decoded:
    """A frame as it waits for its reader."""

    frame: av.VideoFrame
    arrival: _Arrival
    camera_ns: int | None
    lost: int


class _Mailbox:
    """Room for one frame, the freshest; what it replaces is counted as lost with it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._held: _Decoded | None = None
        self._fault: SourceError | None = None
        self._read = False

    def put(self, decoded: _Decoded) -> None:
        with self._changed:
            if self._held and self._read:  # before the first read nothing counts: the pipeline is still starting
                decoded = replace(decoded, lost=decoded.lost + self._held.lost + 1)
            self._held = decoded
            self._changed.notify()

    def fail(self, fault: SourceError) -> None:
        with self._changed:
            self._fault = fault
            self._changed.notify()

    def take(self, timeout: float) -> _Decoded | None:
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._fault, timeout)
            if self._held is None and self._fault:
                raise self._fault
            decoded, self._held = self._held, None
            if decoded and not self._read:
                self._read, decoded = True, replace(decoded, lost=0)
            return decoded


class NetworkSource(Source):
    """A camera on the network. It never ends: when it is away, it is looked for until it is back.

    Frames are uint8 or uint16 as in ``stream.sources.video.luma``, and may change their size while the
    stream goes on. ``captured_ns`` is when the last packet of the picture was received; H.264 over RTSP
    and Motion-JPEG are not held back, but FFmpeg gives a picture of MPEG-TS, and one of HEVC over RTSP,
    when the next one begins. ``camera_ns`` is the time of presentation, which starts anew with every
    connection; ``camera_utc_ns`` is the camera's wall clock, from its RTCP sender reports, once one came.

    A thread receives and decodes; the freshest frame waits for the reader. ``lost`` counts the frames
    that a fresher one replaced, gaps in the times of presentation, damaged pictures, and, for the time
    that the camera was away, as many as its rate would have given. Frames before the first read do not
    count. While the camera is away ``read`` returns None, and one warning says so, one that it is back.
    """

    def __init__(self, url: str) -> None:
        """Connect and decode the first frame.

        Args:
            url: ``rtsp://user:password@host/path``, ``rtsps:``, ``http:``, ``https:``, ``srt://host:port``,
                ``udp://host:port`` or ``rtp://host:port`` (the last two listen; 0.0.0.0 is every interface).
                Certificates are not verified: cameras sign their own.

        Raises:
            SourceError: if it refuses, does not answer in time, wants other credentials, or gives no video.
        """
        check_url(url)
        self._url = url
        self._closed = threading.Event()
        self._pause_s = BACKOFF_S[0]
        self._mailbox = _Mailbox()
        container = _connect(url)
        try:
            rate = container.streams.video[0].average_rate
            invented = container.format.name in _TIMELESS
            fps = float(rate) if rate and not invented and rate <= _HIGHEST_FPS else None
            self._pace = _Pace(1e9 / fps if fps else None)
            frames = _frames(container, self._pace)
            first = next(frames)
        except (av.FFmpegError, OSError, SourceError, StopIteration) as error:
            container.close()
            raise SourceError(f"{masked(url)}: no video from it ({_reason(error)})") from None
        except BaseException:
            container.close()
            raise
        pixels = luma(first.frame)
        self.info = SourceInfo(pixels.shape[1], pixels.shape[0], pixels.itemsize * 8, fps, live=True)
        self._mailbox.put(first)
        # A daemon, because FFmpeg may hold it past the process's end while a peer is silent.
        self._thread = threading.Thread(
            target=self._receive, args=(container, frames, first), name="network", daemon=True
        )
        self._thread.start()

    def read(self, timeout: float) -> SourceFrame | None:
        if self._closed.is_set():
            raise EndOfSource
        decoded = self._mailbox.take(timeout)
        if decoded is None:
            return None
        return SourceFrame(
            luma(decoded.frame),
            decoded.arrival.ns,
            decoded.camera_ns,
            decoded.lost,
            camera_utc_ns=decoded.arrival.utc_ns,
        )

    def close(self) -> None:
        self._closed.set()
        self._thread.join(CLOSE_S)

    def _receive(self, container: InputContainer | None, frames: Iterator[_Decoded], last: _Decoded) -> None:
        """Fill the mailbox until the source is closed; the thread's whole life."""
        shown, away_ns = masked(self._url), 0
        try:
            while container:
                why, began = "the stream ended", time.monotonic()
                try:
                    for decoded in frames:
                        if self._closed.is_set():
                            return
                        self._mailbox.put(self._welcome(decoded, last, away_ns) if away_ns else decoded)
                        last, away_ns = decoded, 0
                        if time.monotonic() - began >= STEADY_S:
                            self._pause_s = BACKOFF_S[0]
                except (av.FFmpegError, OSError) as error:
                    why = _reason(error)
                finally:
                    container.close()
                if not away_ns:
                    away_ns = time.monotonic_ns()
                    _log.warning("%s: away (%s); it is looked for until it is back", shown, why)
                container = self._reconnect()
                if container:
                    self._pace.last_ns = None
                    frames = _frames(container, self._pace)
        except SourceError as error:
            self._mailbox.fail(SourceError(f"{shown}: {error}"))
        except Exception as error:  # a thread's end must not pass for a camera's silence
            self._mailbox.fail(SourceError(f"{shown}: {type(error).__name__}: {error}"))

    def _welcome(self, decoded: _Decoded, last: _Decoded, away_ns: int) -> _Decoded:
        """Return the first frame after a pause, with what its length and the rate say is missing."""
        _log.warning("%s: back after %.1f s", masked(self._url), (decoded.arrival.ns - away_ns) / 1e9)
        gap_ns = decoded.arrival.ns - last.arrival.ns
        missing = round(gap_ns / self._pace.period_ns) - 1 if self._pace.period_ns else 0
        return replace(decoded, lost=max(missing, 0))

    def _reconnect(self) -> InputContainer | None:
        """Return the camera's next connection, None if the source was closed meanwhile.

        A pause is longer than the one before also where that led to a connection: some cameras give a few frames,
        or none, and hang up.
        """
        # Jitter, so that a switch that comes back does not meet all its cameras' readers at once.
        while not self._closed.wait(self._pause_s * random.uniform(0.5, 1.5)):
            self._pause_s = min(2 * self._pause_s, BACKOFF_S[1])
            with suppress(SourceError):
                return _connect(self._url)
        return None


def _connect(url: str) -> InputContainer:
    """Return an open connection with a video stream in it, ready to decode without delay."""
    scheme, shown = urlsplit(url).scheme, masked(url)
    options = _OPTIONS[scheme] | {"fflags": _UNPARSED}
    if scheme.startswith("http"):
        options["format_whitelist"] = _HTTP_FORMATS
    started = time.monotonic()
    try:
        container = av.open(
            url,
            format=_FORMATS.get(scheme),
            options=options,
            metadata_errors="replace",
            io_open=_open_srt if scheme == "srt" else None,
            timeout=(CONNECT_S, SILENCE_S),
        )
    except (av.FFmpegError, OSError) as error:
        # Some demuxers report an interrupted wait as bad data.
        late = time.monotonic() - started >= CONNECT_S
        raise SourceError(f"{shown}: cannot be opened ({_reason(TimeoutError() if late else error)})") from None
    try:
        if not container.streams.video:
            raise SourceError(f"{shown}: no video in it")
        if scheme.startswith("http") and container.size > 0:
            raise SourceError(f"{shown}: a file on a web server; a stream is expected (fetch it and give its path)")
        codec = container.streams.video[0].codec_context
        if codec is None:
            raise SourceError(f"{shown}: FFmpeg has no decoder for its video")
        container.flags &= ~_GEN_PTS  # would look ahead
        if codec.name == "h264":
            codec.flags2 |= CodecFlags2.chunks  # a picture is out when its last slice is in
        elif _FORMATS.get(scheme) == "rtsp":
            container.flags &= ~_NO_PARSE & ~_NO_FILLIN
        codec.flags |= CodecFlags.low_delay
        codec.options = {"max_pixels": str(MAX_SIDE * MAX_SIDE)}  # also of a frame that grows in mid-stream
        codec.thread_count = 2
        codec.thread_type = "SLICE"  # threads a frame would hold frames back
    except BaseException:
        container.close()
        raise
    return container


def _open_srt(url: str, _flags: int, _options: dict[str, str]) -> SrtReader:
    return SrtReader(url, CONNECT_S, SILENCE_S)


def _frames(container: InputContainer, pace: _Pace) -> Iterator[_Decoded]:
    """Yield the whole frames of a connection; the thread that runs it waits at most ``SILENCE_S`` for each.

    Raises:
        av.FFmpegError: if the connection fails or gives no frame in time.
        SourceError: for frames that cannot be accepted.
    """
    stream = container.streams.video[0]
    timed = container.format.name not in _TIMELESS
    tick_ns = (stream.time_base or 0) * 1_000_000_000
    arrivals: dict[int | None, _Arrival] = {}
    damaged = 0
    last_ns, patience_s = time.monotonic_ns(), FIRST_FRAME_S
    for packet in container.demux():
        now_ns = time.monotonic_ns()
        if now_ns - last_ns > patience_s * 1e9:
            raise TimeoutError
        if packet.stream is not stream or not packet.size:
            continue
        earlier = arrivals.get(packet.pts)
        whole = not packet.is_corrupt and (earlier is None or earlier.whole)
        arrivals[packet.pts] = _Arrival(now_ns, _wall_clock_ns(packet), whole)
        if len(arrivals) > 64:
            del arrivals[next(iter(arrivals))]
        try:
            frames = stream.decode(packet)
        except av.InvalidDataError:
            frames = []
        if not frames and not timed:  # one packet is one picture there; else the times of presentation tell
            damaged += 1
        for frame in frames:
            last_ns, patience_s = now_ns, SILENCE_S
            if max(frame.width, frame.height) > MAX_SIDE:
                raise SourceError(f"frames of {frame.width}x{frame.height}; at most {MAX_SIDE} a side are read")
            arrival = arrivals.get(frame.pts) or _Arrival(now_ns, None, True)
            camera_ns = int(frame.pts * tick_ns) if timed and frame.pts is not None else None
            damaged += pace.missed(camera_ns)
            if frame.is_corrupt or not arrival.whole:
                damaged += 1
                continue
            yield _Decoded(frame, arrival, camera_ns, damaged)
            damaged = 0


def _wall_clock_ns(packet: av.Packet[av.stream.Stream]) -> int | None:
    """Return the camera's UTC of a packet, as RTCP sender reports tell it."""
    if not packet.has_sidedata("prft"):
        return None
    (microseconds,) = struct.unpack_from("=q", bytes(packet.get_sidedata("prft")))
    return int(microseconds) * 1000


def _reason(error: BaseException) -> str:
    """Say in a few words what FFmpeg's error means; never its own text, which quotes the URL."""
    if isinstance(error, SourceError):
        return str(error)
    for kinds, meaning in _REASONS:
        if isinstance(error, kinds):
            return meaning
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror.lower() if strerror else type(error).__name__


_REASONS: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((av.error.ExitError, TimeoutError), "no answer in time"),
    ((av.error.HTTPUnauthorizedError,), "401: wrong user or password, or none given"),
    ((av.error.HTTPForbiddenError,), "403: forbidden"),
    ((av.error.HTTPNotFoundError,), "404: there is no such stream"),
    ((av.error.InvalidDataError,), "not video that FFmpeg reads"),
    ((EOFError, StopIteration), "it ended"),
)
