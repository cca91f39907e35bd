"""Frames from a video file, through FFmpeg."""

from __future__ import annotations

import re
import time
from collections.abc import Generator, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np
from av.container import InputContainer

from stream.sources import BEHIND_NS, MAX_SIDE
from stream.sources.base import EndOfSource, Pixels, Source, SourceError, SourceFrame, SourceInfo

MAX_GAP_NS = 10_000_000_000
"""A longer step between two frames, or one back, is a clock that jumped: it counts as one frame period."""

_LUMA_PLANE = re.compile(r"(gray|yuvj?\d{3}p|yuva\d{3}p|nv12|nv16|nv21|nv24)(9|10|12|14|16)?(le|be)?")
_PLAYLISTS = (b"#EXTM3U", b"ffconcat")  # FFmpeg waits for the next entries of one for minutes
_FULL_RANGE = 2  # FFmpeg's AVCOL_RANGE_JPEG


class VideoSource(Source):
    """A video file that is open: every frame of it, in the order of presentation.

    Frames are uint8 if the file has 8 bits a pixel, uint16 if it has more; see ``luma``. ``camera_ns``
    is the time of presentation, from 0 at the first frame. Damage ends it: the frames before it are
    given, then an error that names the file and the frame. A file that is cut off counts as damaged
    where its container tells (MP4, Matroska, AVI, and any cut inside a frame); MPEG-TS and raw streams
    state no length, so a cut exactly between two of their frames looks like their end.
    """

    def __init__(self, path: str | Path, live: bool) -> None:
        """Open a file and decode its first frame.

        Args:
            path: any file that FFmpeg reads.
            live: True gives frames at the file's own rate, by their times of presentation, and
                ``captured_ns`` is when a frame was due; False gives them as fast as they are asked
                for, and ``captured_ns`` is when a frame was decoded.

        Raises:
            SourceError: if there is no such file or nothing in it can be decoded.
        """
        self._path = Path(path)
        self._container = _open(self._path)
        try:
            rate = self._container.streams.video[0].average_rate
            self._frames = _timed_frames(self._container, self._path)
            self._held = next(self._frames, None)
            if self._held is None:
                raise SourceError(f"{path}: no frame in it")
        except BaseException:
            self._container.close()
            raise
        pixels, _ = self._held
        height, width = pixels.shape
        self.info = SourceInfo(width, height, pixels.itemsize * 8, float(rate) if rate else None, live)
        self.start_ns = None

    def read(self, timeout: float) -> SourceFrame | None:
        held = self._held or next(self._frames, None)
        if held is None:
            raise EndOfSource
        self._held = held
        captured_ns, lost = time.monotonic_ns(), 0
        if self.info.live:
            if self.start_ns is None:
                self.start_ns = captured_ns - held[1]
            while captured_ns - (self.start_ns + self._held[1]) > BEHIND_NS:
                if (following := next(self._frames, None)) is None:
                    break
                self._held, lost = following, lost + 1
            captured_ns = self.start_ns + self._held[1]
            self._held = self.place(self._held[0]), self._held[1]
            if not self.wait_until(captured_ns, timeout):
                return None
        (pixels, camera_ns), self._held = self._held, None
        return SourceFrame(pixels, captured_ns, camera_ns, lost)

    def close(self) -> None:
        self._held = None
        self._frames.close()
        self._container.close()


def check_video(path: Path) -> None:
    """Raise SourceError unless ``path`` is a file with something in it."""
    try:
        if path.is_dir():
            raise SourceError(f"{path}: a folder; a video file is expected")
        if not path.exists():
            raise SourceError(f"{path}: no such file")
        if not path.is_file():
            raise SourceError(f"{path}: neither a file nor a folder")
        if not path.stat().st_size:
            raise SourceError(f"{path}: an empty file; a video is expected")
    except OSError as error:
        raise SourceError(f"{path}: {error.strerror or error}") from None


def luma(frame: av.VideoFrame) -> Pixels:
    """Return the brightness of a decoded frame, ``[height, width]``, a copy.

    uint8 for formats of up to 8 bits a channel, uint16 for those of more. Gray of 8 and 16 bits is
    exact. Gray of 9 to 14 bits is shifted up to 16, so that white stays white and ``>>`` gives the
    counts back. Of YUV it is the Y plane: as it is where it uses all its values, and stretched from the
    16 to 235 of video (at 8 bits) to 0 to 255 where it does not, which is what OpenCV's reader gives
    within one level. Of colour it is 0.299 R + 0.587 G + 0.114 B, exact where all three are the same.
    """
    name = frame.format.name
    if not (parts := _LUMA_PLANE.fullmatch(name)):
        deep = any(component.bits > 8 for component in frame.format.components)
        rgb = frame.to_ndarray(format="rgb48le" if deep else "rgb24")
        return cast(Pixels, cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY))
    depth = int(parts[2] or 8)
    dtype: np.dtype[np.uint8 | np.uint16] = np.dtype("u1" if depth == 8 else ">u2" if parts[3] == "be" else "<u2")
    plane = frame.planes[0]
    lines = np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype.itemsize)
    values = lines[: frame.height, : frame.width]
    limited = parts[1] != "gray" and not parts[1].startswith("yuvj") and frame.color_range != _FULL_RANGE
    if (levels := _levels(depth, limited)) is not None:
        return levels.take(values, mode="clip")
    return cast(Pixels, values.astype(np.uint8 if depth == 8 else np.uint16))


@lru_cache(maxsize=16)
def _levels(depth: int, limited: bool) -> Pixels | None:
    """Return the grey level of each value of a plane, None if they are the same."""
    top = 255 if depth == 8 else 65535
    values = np.arange(1 << depth, dtype=np.float64)
    if limited:
        black, white = 16 << (depth - 8), 235 << (depth - 8)
        levels = np.clip(np.rint((values - black) * top / (white - black)), 0, top)
        return levels.astype(np.uint8) if depth == 8 else levels.astype(np.uint16)
    return None if depth in (8, 16) else (values * (1 << (16 - depth))).astype(np.uint16)


def _open(path: Path) -> InputContainer:
    check_video(path)
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(_PLAYLISTS):
            raise SourceError(f"{path}: a playlist; a video file is expected")
        # No other file of references must make FFmpeg fetch from the network; a tag that is not UTF-8 is no fault.
        container = av.open(f"file:{path}", mode="r", metadata_errors="replace", options={"protocol_whitelist": "file"})
    except av.InvalidDataError:
        raise SourceError(f"{path}: not a video that FFmpeg reads, or cut off before its index") from None
    except (av.FFmpegError, OSError) as error:
        raise SourceError(f"{path}: cannot be opened ({error.strerror})") from None
    try:
        if not container.streams.video:
            raise SourceError(f"{path}: no video stream in it")
        codec = container.streams.video[0].codec_context
        if codec is None:
            raise SourceError(f"{path}: FFmpeg has no decoder for its video stream")
        if max(codec.width, codec.height) > MAX_SIDE:
            raise SourceError(f"{path}: frames of {codec.width}x{codec.height}; at most {MAX_SIDE} a side are read")
        codec.options = {"max_pixels": str(MAX_SIDE * MAX_SIDE)}  # also of a frame that grows in mid-stream
        codec.thread_count = 2
        codec.thread_type = "SLICE"  # threads a frame would hold frames back and hide where damage begins
    except BaseException:
        container.close()
        raise
    return container


def _timed_frames(container: InputContainer, path: Path) -> Generator[tuple[Pixels, int], None, None]:
    """Yield each frame's pixels and its time of presentation, nanoseconds from the first frame's."""
    stream = container.streams.video[0]
    period_ns = int(1e9 / (stream.average_rate or stream.guessed_rate or 25))
    tick_ns = stream.time_base and stream.time_base * 1_000_000_000
    time_ns = -period_ns
    last_ns: int | None = None
    shape: object = None
    for number, frame in enumerate(_whole_frames(container, path)):
        pixels = luma(frame)
        if shape not in (None, (pixels.shape, pixels.dtype)):
            raise SourceError(f"{path}: frame {number} has another size or depth than those before it")
        shape = (pixels.shape, pixels.dtype)
        at_ns = None if frame.pts is None or tick_ns is None else int(frame.pts * tick_ns)
        step_ns = 0 if at_ns is None or last_ns is None else at_ns - last_ns
        time_ns += step_ns if 0 < step_ns <= MAX_GAP_NS else period_ns
        last_ns = at_ns
        yield pixels, time_ns


def _whole_frames(container: InputContainer, path: Path) -> Iterator[av.VideoFrame]:
    """Yield the decoded frames up to the first damaged one; raise if there was one or the end is missing."""
    stream = container.streams.video[0]
    given = packets = 0
    step_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    shown_s = last_s = float("-inf")
    damage = ""
    try:
        for packet in container.demux():
            if packet.pts is not None and packet.size:
                last_s = max(last_s, float(packet.pts * packet.time_base))
            if packet.stream is not stream:
                continue
            packets += packet.size > 0
            if packet.is_corrupt:  # cut short; some decoders make a frame of it without a word
                damage = "its data are incomplete"
                break
            for frame in stream.decode(packet):
                if frame.is_corrupt:
                    raise SourceError(f"{path}: damaged at frame {given}")
                yield frame
                given += 1
                if frame.time is not None:
                    step_s = max(step_s, frame.time - shown_s) if given > 1 else step_s
                    shown_s = frame.time
    except av.FFmpegError as error:
        damage = (error.strerror or str(error)).lower()
    if damage:
        # The decoder still holds whole frames, later to be shown than they were decoded.
        for frame in _held_back(stream.codec_context):
            yield frame
            given += 1
        raise SourceError(f"{path}: damaged or cut off at frame {given} ({damage})")
    if _is_cut(container, packets, last_s, step_s):
        raise SourceError(f"{path}: cut off after frame {given - 1}: its header promises more")


def _held_back(codec: av.VideoCodecContext) -> Iterator[av.VideoFrame]:
    with suppress(av.FFmpegError):
        for frame in codec.decode(None):
            if frame.is_corrupt:
                return
            yield frame


def _is_cut(container: InputContainer, packets: int, last_s: float, step_s: float) -> bool:
    """Return whether a file that ended without an error is shorter than its header says.

    MP4 needs no such check, FFmpeg misses its samples; the lengths of other containers are estimates.
    """
    if container.format.name == "avi":
        return packets < container.streams.video[0].frames
    if container.format.name.startswith("matroska") and container.duration:
        return container.duration / 1e6 - last_s > 1.5 * step_s
    return False
