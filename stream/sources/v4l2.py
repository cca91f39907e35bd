"""Frames from Video4Linux cameras, through the kernel's own interface: ioctl and mapped buffers.

Not yet tried on a camera: the tests drive it with a driver of their own, which shows that 16 bits, frame
numbers and times come through, and that requests and structures are what the kernel's headers say.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import time
from contextlib import suppress
from ctypes import c_char, c_int, c_long, c_uint8, c_uint32, c_uint64
from dataclasses import dataclass
from fractions import Fraction
from typing import cast
from urllib.parse import parse_qsl

import numpy as np

from stream.sources import MAX_SIDE
from stream.sources.base import EndOfSource, Pixels, Source, SourceAway, SourceError, SourceFrame, SourceInfo, missing

SCHEME = "v4l2"
FIELDS = ("width", "height", "fps", "pixel_format")
BUFFERS = 6
"""Frames that the driver may fill ahead of us: one filling, one lent to the reader, the others for a stall."""
SILENCE_S = 5.0
"""A camera that gives no whole frame for this long counts as away."""

_FORMATS = {
    "Y16": (b"Y16 ", 16),
    "Y14": (b"Y14 ", 14),
    "Y12": (b"Y12 ", 12),
    "Y10": (b"Y10 ", 10),
    "GREY": (b"GREY", 8),
}
_CAPTURE, _MMAP, _ANY_FIELD = 1, 1, 0
_CAN_CAPTURE, _CAN_STREAM, _HAS_DEVICE_CAPS = 0x1, 0x04000000, 0x80000000
_DAMAGED = 0x40
_CLOCK, _MONOTONIC, _MOMENT, _END_OF_FRAME = 0xE000, 0x2000, 0x70000, 0


class Capability(ctypes.Structure):
    """The kernel's ``v4l2_capability``."""

    _fields_ = (
        ("driver", c_char * 16),
        ("card", c_char * 32),
        ("bus_info", c_char * 32),
        ("version", c_uint32),
        ("capabilities", c_uint32),
        ("device_caps", c_uint32),
        ("reserved", c_uint32 * 3),
    )


class Format(ctypes.Structure):
    """The kernel's ``v4l2_format`` with its ``v4l2_pix_format``; the union begins at a multiple of 8."""

    _fields_ = (
        ("type", c_uint32),
        ("padding", c_uint32),
        ("width", c_uint32),
        ("height", c_uint32),
        ("pixelformat", c_char * 4),
        ("field", c_uint32),
        ("bytesperline", c_uint32),
        ("sizeimage", c_uint32),
        ("rest", c_uint8 * 176),
    )


class Parameters(ctypes.Structure):
    """The kernel's ``v4l2_streamparm`` with its ``v4l2_captureparm``."""

    _fields_ = (
        ("type", c_uint32),
        ("capability", c_uint32),
        ("capturemode", c_uint32),
        ("numerator", c_uint32),
        ("denominator", c_uint32),
        ("rest", c_uint8 * 184),
    )


class Request(ctypes.Structure):
    """The kernel's ``v4l2_requestbuffers``."""

    _fields_ = (("count", c_uint32), ("type", c_uint32), ("memory", c_uint32), ("rest", c_uint32 * 2))


class Buffer(ctypes.Structure):
    """The kernel's ``v4l2_buffer``."""

    _fields_ = (
        ("index", c_uint32),
        ("type", c_uint32),
        ("bytesused", c_uint32),
        ("flags", c_uint32),
        ("field", c_uint32),
        ("seconds", c_long),
        ("microseconds", c_long),
        ("timecode", c_uint32 * 4),
        ("sequence", c_uint32),
        ("memory", c_uint32),
        ("offset", c_uint64),
        ("length", c_uint32),
        ("reserved", c_uint32 * 2),
    )


def _request(direction: int, number: int, kind: type[ctypes.Structure] | type[c_int]) -> int:
    return direction << 30 | ctypes.sizeof(kind) << 16 | ord("V") << 8 | number


QUERYCAP = _request(2, 0, Capability)
G_FMT = _request(3, 4, Format)
S_FMT = _request(3, 5, Format)
REQBUFS = _request(3, 8, Request)
QUERYBUF = _request(3, 9, Buffer)
QBUF = _request(3, 15, Buffer)
DQBUF = _request(3, 17, Buffer)
STREAMON = _request(1, 18, c_int)
STREAMOFF = _request(1, 19, c_int)
G_PARM = _request(3, 21, Parameters)
S_PARM = _request(3, 22, Parameters)


@dataclass(frozen=True)
class DeviceSettings:
    """Which device, and what to ask of it; None leaves a setting as it is.

    Attributes:
        path: of the device, such as ``/dev/video0``.
        width: of a frame, pixels.
        height: of a frame, pixels.
        fps: frame rate, frames per second.
        pixel_format: ``GREY``, ``Y10``, ``Y12``, ``Y14`` or ``Y16``; None takes the device's own, or else
            the deepest that it has.
    """

    path: str
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    pixel_format: str | None = None


class V4l2Source(Source):
    """A Video4Linux camera that is open; ``read`` gives its freshest whole frame.

    Frames are uint8 for ``GREY``, uint16 for the others; ``Y10`` to ``Y14`` are shifted up to 16 bits, so
    that white stays white. ``camera_ns`` is the driver's time of the frame and ``captured_ns`` the same
    where that is the monotonic clock at the frame's end, else when the frame was taken from the driver.
    ``lost`` is what the driver's frame numbers say is missing; frames before the first read do not count.
    A frame's pixels are the driver's own memory: they are to be used before the next read or the close.
    """

    def __init__(self, uri: str) -> None:
        """Open a device, set it up and start it.

        Args:
            uri: ``/dev/video0`` or ``v4l2:/dev/video0?pixel_format=Y16&width=640&height=512&fps=60``.

        Raises:
            SourceError: if there is no such device, it is no camera, or it does not do what is asked.
        """
        self._uri, settings = uri, parse_device(uri)
        self._lent: Buffer | None = None
        self._last: int | None = None
        self._closed = False
        try:
            self._fd = os.open(settings.path, os.O_RDWR | os.O_NONBLOCK)
        except OSError as error:
            raise SourceError(f"{uri}: {(error.strerror or '').lower()}") from None
        try:
            self._check_kind()
            self._format, self._bits = self._choose_format(settings)
            self.info = SourceInfo(
                self._format.width,
                self._format.height,
                8 if self._bits == 8 else 16,
                self._choose_rate(settings.fps),
                live=True,
            )
            self._maps = self._map_buffers()
            self._ioctl(STREAMON, c_int(_CAPTURE), "cannot be started")
        except BaseException:
            os.close(self._fd)
            raise
        self._heard_s = time.monotonic()

    def read(self, timeout: float) -> SourceFrame | None:
        if self._closed:
            raise EndOfSource
        if self._lent:
            self._give_back(self._lent)
            self._lent = None
        deadline = time.monotonic() + timeout
        while True:
            wait_s = min(deadline, self._heard_s + SILENCE_S) - time.monotonic()
            ready, _, _ = select.select([self._fd], [], [], max(wait_s, 0))
            now_ns = time.monotonic_ns()
            waiting = []
            while ready and (buffer := self._take()):
                waiting.append(buffer)
            # All buffers full: frames came since for which there was no room, and what is here is old.
            stale = len(waiting) >= len(self._maps) - 1
            whole = [buffer for buffer in waiting if not buffer.flags & _DAMAGED and not stale]
            for buffer in waiting:
                if buffer not in whole[-1:]:
                    self._give_back(buffer)
            if whole:
                self._lent = whole[-1]
                return self._frame(whole[-1], now_ns)
            if time.monotonic() - self._heard_s >= SILENCE_S:
                raise SourceAway(f"{self._uri}: no whole frame for {SILENCE_S:g} s; is the camera still there?")
            if time.monotonic() >= deadline:
                return None

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(OSError):
            fcntl.ioctl(self._fd, STREAMOFF, c_int(_CAPTURE))
        self._maps = []  # unmapped when the last frame is let go of
        os.close(self._fd)

    def _ioctl(self, request: int, argument: ctypes.Structure | c_int, trouble: str) -> None:
        try:
            fcntl.ioctl(self._fd, request, argument)
        except OSError as error:
            raise SourceAway(f"{self._uri}: {trouble} ({(error.strerror or '').lower()})") from None

    def _check_kind(self) -> None:
        found = Capability()
        self._ioctl(QUERYCAP, found, "no Video4Linux device")
        able = found.device_caps if found.capabilities & _HAS_DEVICE_CAPS else found.capabilities
        if not (able & _CAN_CAPTURE and able & _CAN_STREAM):
            raise SourceError(f"{self._uri}: {found.card.decode(errors='replace')!r} gives no video stream")

    def _choose_format(self, settings: DeviceSettings) -> tuple[Format, int]:
        """Return the format that the device agreed to, and its bits."""
        format_ = Format(type=_CAPTURE)
        self._ioctl(G_FMT, format_, "tells no format")
        own = [name for name, (code, _) in _FORMATS.items() if format_.pixelformat == code]
        wanted = (settings.width or format_.width, settings.height or format_.height)
        for name in [settings.pixel_format] if settings.pixel_format else own or list(_FORMATS):
            code, bits = _FORMATS[name]
            format_.type, format_.field, format_.bytesperline, format_.sizeimage = _CAPTURE, _ANY_FIELD, 0, 0
            format_.width, format_.height = wanted
            format_.pixelformat = code
            self._ioctl(S_FMT, format_, "cannot be set up")
            if format_.pixelformat != code:
                continue
            got = (format_.width, format_.height)
            if (settings.width and got[0] != wanted[0]) or (settings.height and got[1] != wanted[1]):
                raise SourceError(f"{self._uri}: the device offers {got[0]}x{got[1]} instead")
            if max(got) > MAX_SIDE:
                raise SourceError(f"{self._uri}: frames of {got[0]}x{got[1]}; at most {MAX_SIDE} a side are read")
            return format_, bits
        asked = settings.pixel_format or f"any of {', '.join(_FORMATS)}"
        raise SourceError(f"{self._uri}: the device does not give {asked}")

    def _choose_rate(self, fps: float | None) -> float | None:
        """Set the rate if one is asked for; return the device's, None if it tells none."""
        rate = Parameters(type=_CAPTURE)
        if fps is not None:
            period = (1 / Fraction(fps)).limit_denominator(100_000)
            rate.numerator, rate.denominator = period.numerator, period.denominator
            self._ioctl(S_PARM, rate, f"refuses fps={fps:g}")
        else:
            with suppress(OSError):
                fcntl.ioctl(self._fd, G_PARM, rate)
        return rate.denominator / rate.numerator if rate.numerator and rate.denominator else None

    def _map_buffers(self) -> list[mmap.mmap]:
        request = Request(count=BUFFERS, type=_CAPTURE, memory=_MMAP)
        self._ioctl(REQBUFS, request, "has no room for frames")
        if request.count < 3:
            raise SourceError(f"{self._uri}: {request.count} buffers; at least 3 are needed")
        maps = []
        for index in range(request.count):
            buffer = Buffer(index=index, type=_CAPTURE, memory=_MMAP)
            self._ioctl(QUERYBUF, buffer, "shows no buffer")
            offset = buffer.offset & 0xFFFFFFFF  # the union's other members are wider
            maps.append(mmap.mmap(self._fd, buffer.length, mmap.MAP_SHARED, mmap.PROT_READ, offset=offset))
            self._give_back(buffer)
        return maps

    def _take(self) -> Buffer | None:
        buffer = Buffer(type=_CAPTURE, memory=_MMAP)
        try:
            fcntl.ioctl(self._fd, DQBUF, buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise SourceAway(f"{self._uri}: gives no more frames ({(error.strerror or '').lower()})") from None
        return buffer

    def _give_back(self, buffer: Buffer) -> None:
        again = Buffer(index=buffer.index, type=_CAPTURE, memory=_MMAP)
        self._ioctl(QBUF, again, "takes no buffer back")

    def _frame(self, buffer: Buffer, now_ns: int) -> SourceFrame:
        self._heard_s = time.monotonic()
        lost = missing(buffer.sequence, self._last, 1 << 32)
        self._last = buffer.sequence
        camera_ns = buffer.seconds * 1_000_000_000 + buffer.microseconds * 1000
        exact = buffer.flags & _CLOCK == _MONOTONIC and buffer.flags & _MOMENT == _END_OF_FRAME
        return SourceFrame(self._pixels(buffer), camera_ns if exact else now_ns, camera_ns, lost)

    def _pixels(self, buffer: Buffer) -> Pixels:
        """Return a buffer's image: a view for 8 and 16 bits, shifted up and copied for those between."""
        dtype: np.dtype[np.uint8 | np.uint16] = np.dtype("u1" if self._bits == 8 else "<u2")
        width, height = self._format.width, self._format.height
        line = self._format.bytesperline or width * dtype.itemsize
        data = self._maps[buffer.index]
        if len(data) < (height - 1) * line + width * dtype.itemsize:
            raise SourceError(f"{self._uri}: a frame of {width}x{height} in {len(data)} bytes")
        image = np.ndarray((height, width), dtype, data, strides=(line, dtype.itemsize))
        return cast(Pixels, image if self._bits in (8, 16) else image << (16 - self._bits))


def parse_device(uri: str) -> DeviceSettings:
    """Return what a ``/dev/video0`` or ``v4l2:`` URI asks for.

    Raises:
        SourceError: if it names no device, or a field is unknown, given twice or no number.
    """
    path, mark, query = uri.removeprefix(f"{SCHEME}:").partition("?")
    if not uri.isprintable() or not path.startswith("/dev/"):
        raise SourceError(f"{uri!r}: a device such as v4l2:/dev/video0 is expected")
    pairs = [pair for pair in parse_qsl(query, keep_blank_values=True) if mark]
    fields = dict(pairs)
    if unknown := [field for field in fields if field not in FIELDS]:
        raise SourceError(f"{uri}: no field {unknown[0]!r}; a device's fields are {', '.join(FIELDS)}")
    if len(fields) < len(pairs):
        raise SourceError(f"{uri}: a field is given twice")
    pixel_format = fields.get("pixel_format")
    if pixel_format is not None and pixel_format not in _FORMATS:
        raise SourceError(f"{uri}: pixel_format={pixel_format}: one of {', '.join(_FORMATS)} is expected")
    numbers = {field: _positive(uri, field, fields[field]) for field in ("width", "height", "fps") if field in fields}
    sides = {field: int(numbers[field]) for field in ("width", "height") if field in numbers}
    return DeviceSettings(path, sides.get("width"), sides.get("height"), numbers.get("fps"), pixel_format)


def _positive(uri: str, field: str, given: str) -> float:
    highest = float(MAX_SIDE)
    with suppress(ValueError):
        number = float(given) if field == "fps" else float(int(given))
        if 0 < number <= highest:
            return number
    raise SourceError(f"{uri}: {field}={given}: a number above 0 and up to {MAX_SIDE} is expected")
