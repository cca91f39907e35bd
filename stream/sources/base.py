"""What a source of frames is."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stream import StreamError

WAKE_NS = 120_000  # what a core may take to wake up from a sleep; a frame that is due is not to wait for it

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class SourceError(StreamError):
    """A source that cannot be opened or read; the message names it and says what would be right."""


class SourceAway(SourceError):  # noqa: N818 (what it is)
    """A camera that was open and is not there any more; it may come back."""


class EndOfSource(Exception):  # noqa: N818 (an ending, not an error)
    """The source has given its last frame."""


@dataclass(frozen=True)
class SourceInfo:
    """What a source knows of itself once it is open.

    Attributes:
        width: of a frame, pixels.
        height: of a frame, pixels.
        bits: 8 or 16, the depth of a pixel.
        fps: frames per second, as the source states them; None if it does not.
        live: True for sources that do not wait (cameras, scenes, files paced at their rate), so
            that a frame that comes while all is busy is lost; False for sources that wait.
    """

    width: int
    height: int
    bits: int
    fps: float | None
    live: bool


@dataclass(frozen=True)
class TruePoint:
    """A target that a synthetic source knows to be in a frame: its id and centre, pixels."""

    id: int
    x: float
    y: float


@dataclass(frozen=True)
class SourceFrame:
    """One frame as a source gives it.

    Attributes:
        pixels: uint8 or uint16 ``[height, width]``, the reader's to keep until the next read.
        captured_ns: the host's monotonic clock when the frame's last byte was there; for a source
            that paces itself, when the frame was due (so that its own slowness is not hidden).
        camera_ns: the source's own time of the frame; None if it has none.
        lost: frames that the source knows it lost just before this one.
        truth: the targets in the frame; None if the source does not know them.
        camera_utc_ns: its own wall clock for it, nanoseconds since 1970; None if it tells none.
        window: the pixel values that the network is to see as 0 and 1, of a recording; else None.
    """

    pixels: Pixels
    captured_ns: int
    camera_ns: int | None = None
    lost: int = 0
    truth: tuple[TruePoint, ...] | None = None
    camera_utc_ns: int | None = None
    window: tuple[float, float] | None = None


class Source(ABC):
    """A camera, file or scene that is open and gives one frame after another. Closing it twice is fine.

    Attributes:
        info: what it knows of itself.
        start_ns: when the first frame of a source that paces itself was due, once it was read. Set before
            that, it makes the source go on as if it had begun then. None of all others.
        room: memory for the next frame that the reader lends until that is read, as a camera writes into memory that
            its driver was given. A source that paces itself puts the frame there before it is due.
    """

    info: SourceInfo
    start_ns: int | None = None
    room: Pixels | None = None

    @abstractmethod
    def read(self, timeout: float) -> SourceFrame | None:
        """Return the next frame, or None if there was none within ``timeout`` seconds.

        A None loses nothing: the next call goes on waiting for the same frame.

        Raises:
            EndOfSource: after the last frame.
            SourceError: if the source fails; it names the source and the reason.
        """

    def wait_until(self, due_ns: int, timeout: float) -> bool:
        """Sleep until the monotonic clock shows ``due_ns``, at most ``timeout`` seconds; return whether it does."""
        deadline = time.monotonic_ns() + int(timeout * 1e9)
        while (now := time.monotonic_ns()) < due_ns:
            if now >= deadline:
                return False
            time.sleep(max(0, min(due_ns - WAKE_NS, deadline) - now) / 1e9)
        return True

    def place(self, pixels: Pixels) -> Pixels:
        """Return a frame's pixels from where they are to be used: copied to ``room``, if they fit there."""
        room = self.room
        if room is None or pixels is room or room.shape != pixels.shape or room.dtype != pixels.dtype:
            return pixels
        np.copyto(room, pixels)
        return room

    @abstractmethod
    def close(self) -> None:
        """Let go of the device or file."""


def missing(number: int, last: int | None, numbers: int) -> int:
    """Return how many frames are missing between two, by their numbers.

    Args:
        number: of a frame.
        last: of the one before it; None of the first.
        numbers: how many there are before they begin again. A step of none, or of half of them and more, is of a
            camera that does not count, or that began anew: it tells nothing.
    """
    step = 1 if last is None else (number - last) % numbers
    return step - 1 if 0 < step < numbers / 2 else 0
