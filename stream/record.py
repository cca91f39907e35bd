"""A recording: the frames and messages of a run on disk, readable up to the last frame however the run ended.

A run is a folder named by its start; a stream is a folder in it, a row of segments of a minute or
less. A segment is two files: ``000001.mkv`` has the frames, FFV1 in Matroska, lossless; ``000001.mcap``
has the messages as they were published and, on the topic ``frames/<stream>``, a ``FrameRecord`` a frame.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import msgspec
import numpy as np
from mcap.exceptions import McapError
from mcap.records import Channel, Message
from mcap.stream_reader import StreamReader
from mcap.writer import IndexType, Writer

from stream import StreamError
from stream.frame import FrameRef, Publish
from stream.ring import MAX_PIXELS
from stream.sources.base import Pixels

MCAP, VIDEO = ".mcap", ".mkv"
FRAMES = "frames/"
MS = Fraction(1, 1000)
FORMATS = {8: "gray", 16: "gray16le"}
LARGEST_RECORD = 1 << 26  # bytes: a damaged length shall not claim the memory
# Every frame is a cluster of its own, in the file as soon as the next one comes: a kill costs one frame.
MATROSKA = {"flush_packets": "1", "cluster_time_limit": "1"}
FFV1 = {"level": "3", "slices": "4", "slicecrc": "1"}  # a check sum a slice tells a torn frame from a whole one


class RecordingError(StreamError):
    """A recording that cannot be made or read; the message names the file and says what would be right."""


@dataclass(frozen=True, slots=True)
class RecordedMessage:
    """A message as it was published.

    Attributes:
        time_ns: when, ns since 1970; UTC as long as nobody set the clock during the run, and steady anyway.
        topic: its topic.
        payload: MessagePack.
    """

    time_ns: int
    topic: str
    payload: bytes


class FrameRecord(msgspec.Struct, kw_only=True):
    """One recorded frame.

    Attributes:
        seq: number of the frame at its source, from 0; gaps are drops.
        width: pixels.
        height: pixels.
        bits: 8 or 16.
        captured_ns: monotonic clock of the host, when its last byte was there.
        captured_utc_ns: the same moment in UTC, ns since 1970.
        camera_ns: the source's own time, if it has one.
        time_ns: the time that the stream's tracker went by.
        low: the pixel value that the network saw as 0.
        high: the pixel value that the network saw as 1.
        live: whether the source did not wait.
        dropped: frames that the pipeline dropped since the stream's last, by reason.
        kept: whether its pixels are in the video.
        truth: id, x, y of the targets in it, where the source knew them.
        camera_utc_ns: the camera's wall clock for it, if it told one.
    """

    seq: int
    width: int
    height: int
    bits: int
    captured_ns: int
    captured_utc_ns: int
    camera_ns: int | None
    time_ns: int
    low: float
    high: float
    live: bool
    dropped: dict[str, int]
    kept: bool
    truth: list[tuple[int, float, float]] | None
    camera_utc_ns: int | None = None


def record_of(frame: FrameRef, time_ns: int, kept: bool) -> FrameRecord:
    """Return what is recorded of a frame besides its pixels."""
    same = {name: getattr(frame, name) for name in FrameRecord.__struct_fields__ if hasattr(frame, name)}
    return FrameRecord(**same, time_ns=time_ns, kept=kept)


class SegmentWriter:
    """Writes one segment.

    Args:
        stem: its path without suffix; its folder is there.
        stream: name of the stream.
        utc_offset_ns: what to add to a monotonic time for that of a message in the file: UTC as it was when the run
            began, and steady from there on, however the clock is set.

    Raises:
        OSError: if a file cannot be written; so do all methods.
    """

    def __init__(self, stem: Path, stream: str, utc_offset_ns: int) -> None:
        self.stem, self.stream, self._offset_ns = stem, stream, utc_offset_ns
        self.start_ns: int | None = None  # time_ns of the first frame
        self.video_bytes = 0
        self._container: Any = None
        self._shape: tuple[int, int, int] | None = None
        self._pts = -1
        self._file = stem.with_suffix(MCAP).open("xb")
        self._writer = Writer(self._file, use_chunking=False, index_types=IndexType.NONE)
        self._writer.start(profile="", library="irstream")
        self._channels: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Bytes written so far."""
        return self.video_bytes + self._file.tell()

    def fits(self, record: FrameRecord) -> bool:
        """Return whether a frame is of the size and depth of this segment's."""
        return not record.kept or self._shape in (None, (record.width, record.height, record.bits))

    def add(self, record: FrameRecord, pixels: Pixels | None, messages: list[Publish]) -> None:
        """Write a frame, ``[height, width]`` or None if it was not kept, and what was published of it."""
        if self.start_ns is None:
            self.start_ns = record.time_ns
        self._write(FRAMES + self.stream, msgspec.msgpack.encode(record), record.captured_ns)
        for message in messages:
            self._write(message.topic, message.payload, record.captured_ns)
        self._file.flush()  # before the pixels: a kill leaves more records than frames, never fewer
        if pixels is not None:
            self._write_pixels(record, pixels)

    def say(self, message: Publish, now_ns: int) -> None:
        """Write a message of no frame, published at ``now_ns`` of the monotonic clock."""
        self._write(message.topic, message.payload, now_ns)
        self._file.flush()

    def _write(self, topic: str, payload: bytes, monotonic_ns: int) -> None:
        utc_ns = monotonic_ns + self._offset_ns
        if topic not in self._channels:
            self._channels[topic] = self._writer.register_channel(topic, "msgpack", schema_id=0)
        self._writer.add_message(self._channels[topic], log_time=utc_ns, data=payload, publish_time=utc_ns)

    def _write_pixels(self, record: FrameRecord, pixels: Pixels) -> None:
        assert self.start_ns is not None
        if self._container is None:
            self._open_video(record)
        frame = av.VideoFrame.from_ndarray(cast(Any, np.ascontiguousarray(pixels)), format=FORMATS[record.bits])
        self._pts = frame.pts = max(self._pts + 1, (record.time_ns - self.start_ns) // 1_000_000)
        frame.time_base = MS
        self._mux(frame)

    def _open_video(self, record: FrameRecord) -> None:
        self._shape = record.width, record.height, record.bits
        path = str(self.stem.with_suffix(VIDEO))
        self._container = av.open(path, "w", format="matroska", options=MATROSKA)
        self._video = self._container.add_stream("ffv1", rate=1000)
        self._video.width, self._video.height, self._video.pix_fmt = record.width, record.height, FORMATS[record.bits]
        self._video.codec_context.time_base = self._video.time_base = MS
        self._video.codec_context.gop_size = 1  # every frame stands alone
        self._video.codec_context.thread_count = 1
        self._video.codec_context.options = FFV1

    def _mux(self, frame: av.VideoFrame | None) -> None:
        for packet in self._video.encode(frame):
            self.video_bytes += packet.size
            self._container.mux(packet)

    def close(self) -> None:
        """Finish both files."""
        if self._container is not None:
            self._mux(None)
            self._container.close()
        self._writer.finish()  # type: ignore[no-untyped-call]
        self._file.close()


def read_messages(stem: Path) -> Iterator[RecordedMessage]:
    """Yield every message of a segment, in the order they were written.

    What a kill cut off is left out.

    Raises:
        RecordingError: if the file cannot be read or is no MCAP file.
    """
    path = stem.with_suffix(MCAP)
    topics: dict[int, str] = {}
    try:
        with path.open("rb") as file:
            if not file.read(1):
                return  # killed before its first byte
            file.seek(0)
            for record in StreamReader(file, record_size_limit=LARGEST_RECORD).records:
                if isinstance(record, Channel):
                    topics[record.id] = record.topic
                elif isinstance(record, Message):
                    yield RecordedMessage(record.log_time, topics[record.channel_id], record.data)
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}") from None
    except (struct.error, EOFError, McapError, KeyError) as error:
        if not topics and path.stat().st_size > 64:
            raise RecordingError(f"{path}: not a recording's MCAP file ({error})") from None


def read_frames(stem: Path) -> Iterator[tuple[FrameRecord, Pixels]]:
    """Yield the frames of a segment whose pixels were kept; what a kill cut off is left out.

    Raises:
        RecordingError: if a file cannot be read.
    """
    records = (record for record in read_records(stem) if record.kept)
    for record, pixels in zip(records, _decode(stem.with_suffix(VIDEO)), strict=False):
        if pixels.shape != (record.height, record.width):
            raise RecordingError(f"{stem}: its two files do not belong together: frame {record.seq} has another size")
        yield record, pixels


def read_records(stem: Path) -> Iterator[FrameRecord]:
    """Yield the record of every frame of a segment.

    Raises:
        RecordingError: if the file cannot be read.
    """
    for message in read_messages(stem):
        if message.topic.startswith(FRAMES):
            try:
                yield msgspec.msgpack.decode(message.payload, type=FrameRecord)
            except msgspec.DecodeError as error:
                raise RecordingError(f"{stem.with_suffix(MCAP)}: another version's frame ({error})") from None


def _decode(path: Path) -> Iterator[Pixels]:
    try:
        # Nothing in a file may make FFmpeg fetch another.
        container = av.open(f"file:{path}", format="matroska", options={"protocol_whitelist": "file"})
    except FileNotFoundError:
        return
    except (av.FFmpegError, OSError):  # killed while its header was written
        return
    with container:
        try:
            container.streams.video[0].codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            for frame in container.decode(video=0):
                if frame.is_corrupt:
                    return
                yield cast(Pixels, frame.to_ndarray())
        except (av.FFmpegError, IndexError):  # torn, too large, or no video in it
            return


def new_run(room: Path) -> Path:
    """Make the folder of a new run, named by the time, in the folder of all recordings, and return it.

    Raises:
        RecordingError: if it cannot be made.
    """
    name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    for number in itertools.count(1):
        run = room / (name if number == 1 else f"{name}-{number}")
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            if not room.is_dir():
                raise RecordingError(f"record.folder {room}: not a folder") from None
        except OSError as error:
            raise RecordingError(f"record.folder {room}: {(error.strerror or str(error)).lower()}") from None
        else:
            return run
    raise AssertionError


def segments(folder: Path) -> list[Path]:
    """Return the stems of a stream's segments, in order."""
    return sorted({path.with_suffix("") for path in folder.glob(f"*{MCAP}")})


def find_streams(folder: Path) -> dict[str, Path]:
    """Return the folders of a recording's streams by their names.

    Args:
        folder: of a run, of one of its streams, or of recordings if it has those of one run only.

    Raises:
        RecordingError: if it is none of them; the message says what would be right.
    """
    if not folder.is_dir():
        raise RecordingError(f"{folder}: no such folder; the folder of a recording is expected")
    if segments(folder):
        return {folder.name: folder}
    inner = sorted(path for path in folder.iterdir() if path.is_dir())
    if streams := {path.name: path for path in inner if segments(path)}:
        return streams
    runs = [path for path in inner if any(segments(stream) for stream in path.iterdir() if stream.is_dir())]
    if len(runs) == 1:
        return find_streams(runs[0])
    if runs:
        names = ", ".join(path.name for path in runs[-5:])
        raise RecordingError(f"{folder}: {len(runs)} recordings in it; name one of them: {names}")
    raise RecordingError(f"{folder}: no recording in it; the folder that --record named is expected")
