"""Frames from GigE Vision and USB3 Vision cameras, through the Aravis library of the system.

Aravis (LGPL-2.1) is loaded at run time and called directly: neither PyGObject nor a compiler is needed. On
Debian it is the package libaravis-0.8-0.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import threading
import time
from contextlib import suppress
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any, cast
from urllib.parse import parse_qsl

import numpy as np

from stream.sources import MAX_SIDE
from stream.sources.base import EndOfSource, Pixels, Source, SourceAway, SourceError, SourceFrame, SourceInfo, missing

SCHEMES = ("gige", "u3v")
FIELDS = ("exposure_us", "fps", "pixel_format")
LIBRARY = "libaravis-0.8.so.0"
BUFFERS = 6
"""Frames that Aravis may fill ahead of us: one filling, one lent to the reader, the others for a stall."""
SILENCE_S = 5.0
"""A camera that gives no whole frame for this long counts as away."""
CLOSE_S = 0.5
"""How long ``close`` waits for a camera to confirm that it stopped."""

_MONO = {"Mono8": 8, "Mono10": 10, "Mono12": 12, "Mono14": 14, "Mono16": 16}
_CODES = {0x01080001: 8, 0x01100003: 10, 0x01100005: 12, 0x01100025: 14, 0x01100007: 16}
_BUFFER_SUCCESS, _CALLBACK_BUFFER_DONE, _AUTO_OFF = 0, 2, 0  # Aravis's enumerations
_GVCP_PORT = 3956
_GVCP_DISCOVERY = bytes.fromhex("4201000200000001")  # key, acknowledge please, discovery, no payload, request 1
_IDS = 65535  # GigE Vision 1 counts frames from 1 to this, then from 1 again


class _GError(ctypes.Structure):
    _fields_ = (("domain", c_uint32), ("code", c_int), ("message", c_char_p))


_ERROR = POINTER(POINTER(_GError))
_CALLBACK = ctypes.CFUNCTYPE(None, c_void_p, c_int, c_void_p)
_BOUNDS = (c_void_p, POINTER(c_double), POINTER(c_double), _ERROR)
_PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "arv_camera_new": (c_void_p, (c_char_p, _ERROR)),
    "arv_camera_get_region": (None, (c_void_p, *(POINTER(c_int),) * 4, _ERROR)),
    "arv_camera_get_payload": (c_uint, (c_void_p, _ERROR)),
    "arv_camera_get_pixel_format": (c_uint32, (c_void_p, _ERROR)),
    "arv_camera_get_pixel_format_as_string": (c_char_p, (c_void_p, _ERROR)),
    "arv_camera_set_pixel_format_from_string": (None, (c_void_p, c_char_p, _ERROR)),
    "arv_camera_is_exposure_auto_available": (c_int, (c_void_p, _ERROR)),
    "arv_camera_set_exposure_time_auto": (None, (c_void_p, c_int, _ERROR)),
    "arv_camera_set_exposure_time": (None, (c_void_p, c_double, _ERROR)),
    "arv_camera_get_exposure_time_bounds": (None, _BOUNDS),
    "arv_camera_set_frame_rate": (None, (c_void_p, c_double, _ERROR)),
    "arv_camera_get_frame_rate": (c_double, (c_void_p, _ERROR)),
    "arv_camera_get_frame_rate_bounds": (None, _BOUNDS),
    "arv_camera_create_stream": (c_void_p, (c_void_p, _CALLBACK, c_void_p, _ERROR)),
    "arv_camera_start_acquisition": (None, (c_void_p, _ERROR)),
    "arv_camera_stop_acquisition": (None, (c_void_p, _ERROR)),
    "arv_stream_push_buffer": (None, (c_void_p, c_void_p)),
    "arv_stream_timeout_pop_buffer": (c_void_p, (c_void_p, c_uint64)),
    "arv_stream_try_pop_buffer": (c_void_p, (c_void_p,)),
    "arv_buffer_new_allocate": (c_void_p, (c_size_t,)),
    "arv_buffer_get_status": (c_int, (c_void_p,)),
    "arv_buffer_get_frame_id": (c_uint64, (c_void_p,)),
    "arv_buffer_get_timestamp": (c_uint64, (c_void_p,)),
    "arv_buffer_get_image_data": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "arv_buffer_get_image_width": (c_int, (c_void_p,)),
    "arv_buffer_get_image_height": (c_int, (c_void_p,)),
    "arv_buffer_get_image_pixel_format": (c_uint32, (c_void_p,)),
    "g_object_unref": (None, (c_void_p,)),
    "g_error_free": (None, (POINTER(_GError),)),
}


@dataclass(frozen=True)
class CameraSettings:
    """Which camera, and what to set on it; None leaves a setting as the camera has it.

    Attributes:
        name: as Aravis lists it, an IP address or a host's name; None takes the first that is found.
        exposure_us: exposure, microseconds.
        fps: frame rate, frames per second.
        pixel_format: ``Mono8``, ``Mono10``, ``Mono12``, ``Mono14`` or ``Mono16``.
    """

    name: str | None
    exposure_us: float | None = None
    fps: float | None = None
    pixel_format: str | None = None


class GigeSource(Source):
    """A GigE Vision or USB3 Vision camera that is open; ``read`` gives its freshest whole frame.

    Frames are uint8 for ``Mono8``, uint16 for the others; ``Mono10`` to ``Mono14`` are shifted up to 16
    bits, so that white stays white. ``captured_ns`` is when the frame's last packet was received and
    ``camera_ns`` the camera's own clock. ``lost`` is what the camera's frame numbers say is missing:
    frames with lost packets, frames for which there was no room, and those that a fresher one replaced.
    Frames before the first read do not count. A frame's pixels are Aravis's own memory: they are to be
    used before the next read or the close.
    """

    def __init__(self, uri: str) -> None:
        """Open a camera, set it up and start it.

        Args:
            uri: ``gige:NAME?exposure_us=5000&fps=30&pixel_format=Mono16``; every field may be left out.

        Raises:
            SourceError: if Aravis is not installed, no such camera answers, or it refuses a setting.
        """
        self._uri, self._settings = uri, parse_camera(uri)
        self._arrivals: dict[int, int] = {}
        self._lent: int | None = None
        self._last_id: int | None = None
        self._closed = False
        self._heard_s = time.monotonic()
        self._stream: int | None = None
        if uri.startswith("gige:"):
            _look_for(self._settings.name, uri)
        self._camera: int = self._call("camera_new", (self._settings.name or "").encode() or None)
        self._callback = _CALLBACK(self._note_arrival)  # Aravis keeps only its address
        try:
            self.info = self._set_up()
            self._start()
        except BaseException:
            self._shut()
            raise

    def read(self, timeout: float) -> SourceFrame | None:
        if self._closed:
            raise EndOfSource
        library = _library()
        if self._lent is not None:
            library.arv_stream_push_buffer(self._stream, self._lent)
            self._lent = None
        deadline = time.monotonic() + timeout
        while True:
            wait_us = max(round((deadline - time.monotonic()) * 1e6), 0)
            buffer = library.arv_stream_timeout_pop_buffer(self._stream, wait_us)
            if buffer is None:
                if time.monotonic() - self._heard_s > SILENCE_S:
                    raise SourceAway(f"{self._uri}: no whole frame for {SILENCE_S:g} s; is the camera still there?")
                return None
            waiting = [buffer]
            while (buffer := library.arv_stream_try_pop_buffer(self._stream)) is not None:
                waiting.append(buffer)
            # All buffers full: frames came since for which there was no room, and what is here is old.
            stale = len(waiting) >= BUFFERS - 1
            whole = [b for b in waiting if library.arv_buffer_get_status(b) == _BUFFER_SUCCESS and not stale]
            for buffer in waiting:
                if buffer not in whole[-1:]:
                    library.arv_stream_push_buffer(self._stream, buffer)
            if whole:
                self._lent = whole[-1]
                return self._frame(whole[-1])

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        # A camera that does not answer is asked several times; nobody waits for that.
        thread = threading.Thread(target=self._shut, name="gige", daemon=True)
        thread.start()
        thread.join(CLOSE_S)

    def _call(self, name: str, *arguments: object) -> Any:  # noqa: ANN401 (what the C function returns)
        """Call ``arv_<name>`` and raise SourceError for the GError that it gives."""
        fault = POINTER(_GError)()
        result = getattr(_library(), f"arv_{name}")(*arguments, byref(fault))
        if not fault:
            return result
        message = " ".join((fault.contents.message or b"").decode(errors="replace").split())
        _library().g_error_free(fault)
        raise SourceError(f"{self._uri}: {message.lower() or name}")

    def _set_up(self) -> SourceInfo:
        camera, settings = self._camera, self._settings
        if settings.pixel_format:
            self._call("camera_set_pixel_format_from_string", camera, settings.pixel_format.encode())
        if settings.exposure_us is not None:
            self._within("exposure_time", "exposure_us", settings.exposure_us)
            if self._call("camera_is_exposure_auto_available", camera):
                self._call("camera_set_exposure_time_auto", camera, _AUTO_OFF)
            self._call("camera_set_exposure_time", camera, settings.exposure_us)
        if settings.fps is not None:
            self._within("frame_rate", "fps", settings.fps)
            self._call("camera_set_frame_rate", camera, settings.fps)
        bits = _CODES.get(self._call("camera_get_pixel_format", camera))
        if bits is None:
            name = (self._call("camera_get_pixel_format_as_string", camera) or b"?").decode()
            raise SourceError(f"{self._uri}: the camera gives {name}; set pixel_format to one of {', '.join(_MONO)}")
        x, y, width, height = c_int(), c_int(), c_int(), c_int()
        self._call("camera_get_region", camera, byref(x), byref(y), byref(width), byref(height))
        if max(width.value, height.value) > MAX_SIDE:
            raise SourceError(
                f"{self._uri}: frames of {width.value}x{height.value}; at most {MAX_SIDE} a side are read"
            )
        fps = None
        with suppress(SourceError):  # not every camera tells
            fps = self._call("camera_get_frame_rate", camera) or None
        return SourceInfo(width.value, height.value, 8 if bits == 8 else 16, fps, live=True)

    def _within(self, feature: str, field: str, value: float) -> None:
        lowest, highest = c_double(), c_double()
        self._call(f"camera_get_{feature}_bounds", self._camera, byref(lowest), byref(highest))
        if not lowest.value <= value <= highest.value:
            raise SourceError(f"{self._uri}: {field} is {lowest.value:g} to {highest.value:g} on this camera")

    def _start(self) -> None:
        library = _library()
        payload = self._call("camera_get_payload", self._camera)
        self._stream = self._call("camera_create_stream", self._camera, self._callback, None)
        for _ in range(BUFFERS):
            library.arv_stream_push_buffer(self._stream, library.arv_buffer_new_allocate(payload))
        self._call("camera_start_acquisition", self._camera)
        self._heard_s = time.monotonic()

    def _note_arrival(self, _: int, kind: int, buffer: int) -> None:
        """Note when a buffer was complete; runs on Aravis's thread, since its own time is that of the first packet."""
        if kind == _CALLBACK_BUFFER_DONE:
            self._arrivals[buffer] = time.monotonic_ns()

    def _frame(self, buffer: int) -> SourceFrame:
        self._heard_s = time.monotonic()
        library = _library()
        number = library.arv_buffer_get_frame_id(buffer)
        lost = missing(number, self._last_id, _IDS)
        self._last_id = number
        captured_ns = self._arrivals.get(buffer) or time.monotonic_ns()
        camera_ns = library.arv_buffer_get_timestamp(buffer)
        return SourceFrame(_pixels(buffer, self._uri), captured_ns, camera_ns, lost)

    def _shut(self) -> None:
        library = _library()
        with suppress(SourceError):
            self._call("camera_stop_acquisition", self._camera)
        if self._stream is not None:
            library.g_object_unref(self._stream)
        library.g_object_unref(self._camera)


def parse_camera(uri: str) -> CameraSettings:
    """Return what a ``gige:`` or ``u3v:`` URI asks for.

    Raises:
        SourceError: if a field is unknown, given twice or no number, or Aravis is not installed.
    """
    name, mark, query = uri.partition(":")[2].partition("?")
    if not uri.isprintable():
        raise SourceError(f"{uri!r}: not a camera's name")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if mark else []
    except ValueError:
        pairs = [("", "")]
    fields = dict(pairs)
    if unknown := [field for field in fields if field not in FIELDS]:
        raise SourceError(f"{uri}: no field {unknown[0]!r}; a camera's fields are {', '.join(FIELDS)}")
    if len(fields) < len(pairs):
        raise SourceError(f"{uri}: a field is given twice")
    pixel_format = fields.get("pixel_format")
    if pixel_format is not None and pixel_format not in _MONO:
        raise SourceError(f"{uri}: pixel_format={pixel_format}: one of {', '.join(_MONO)} is expected")
    try:
        _library()
    except OSError:
        raise SourceError(f"{uri}: Aravis is not installed; on Debian: apt-get install libaravis-0.8-0") from None
    return CameraSettings(
        name or None, _positive(uri, "exposure_us", fields), _positive(uri, "fps", fields), pixel_format
    )


def _positive(uri: str, field: str, fields: dict[str, str]) -> float | None:
    if (given := fields.get(field)) is None:
        return None
    with suppress(ValueError):
        if 0 < (number := float(given)) < float("inf"):
            return number
    raise SourceError(f"{uri}: {field}={given}: a number above 0 is expected")


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(LIBRARY)
    for name, (result, arguments) in _PROTOTYPES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _look_for(name: str | None, uri: str) -> None:
    """Raise SourceError unless a camera named by its address answers there, so that no network is searched for it."""
    try:
        address = str(ipaddress.IPv4Address(name or ""))
    except ValueError:
        return
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.settimeout(0.5)
        for _ in range(3):
            with suppress(OSError):
                asker.sendto(_GVCP_DISCOVERY, (address, _GVCP_PORT))
                asker.recv(1024)
                return
    raise SourceError(f"{uri}: no GigE Vision camera answers at {address}")


def _pixels(buffer: int, uri: str) -> Pixels:
    """Return a buffer's image: a view for 8 and 16 bits, shifted up and copied for those between."""
    library = _library()
    bits = _CODES.get(library.arv_buffer_get_image_pixel_format(buffer))
    if bits is None:
        raise SourceError(f"{uri}: the camera changed its pixel format to one that is not accepted")
    width, height = library.arv_buffer_get_image_width(buffer), library.arv_buffer_get_image_height(buffer)
    size = c_size_t()
    address = library.arv_buffer_get_image_data(buffer, byref(size))
    dtype: np.dtype[np.uint8 | np.uint16] = np.dtype("u1" if bits == 8 else "<u2")
    if not address or size.value < width * height * dtype.itemsize:
        raise SourceError(f"{uri}: a frame of {width}x{height} in {size.value} bytes")
    data = (ctypes.c_ubyte * (width * height * dtype.itemsize)).from_address(address)
    image = np.frombuffer(data, dtype).reshape(height, width)
    return cast(Pixels, image if bits in (8, 16) else image << (16 - bits))
