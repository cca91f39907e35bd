"""Frames from a folder of images."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import cast

import cv2
import numpy as np

from stream.sources import BEHIND_NS, MAX_SIDE
from stream.sources.base import EndOfSource, Pixels, Source, SourceError, SourceFrame, SourceInfo

SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".jpg", ".jpeg")
MAX_FILE_BYTES = 256 * 1024 * 1024

# What OpenCV finds wrong with a file is said in our own line, not in several of its own.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


class ImagesSource(Source):
    """A folder of gray images as a video, in natural order: ``f2.png`` comes before ``f10.png``.

    Frames are uint8 or uint16, as the images are; 8-bit colour becomes gray. ``camera_ns`` is the time
    since the first image at the folder's rate.
    """

    def __init__(self, folder: str | Path, fps: float, live: bool) -> None:
        """Open a folder and decode its first image.

        Args:
            folder: with images ``.png .tif .bmp .jpg``, all of one size and depth; other files in it
                and folders within are passed over.
            fps: the rate of the images, frames per second.
            live: True gives them at that rate, and ``captured_ns`` is when a frame was due; False gives
                them as fast as they are asked for, and ``captured_ns`` is when a frame was decoded.

        Raises:
            SourceError: if there is no such folder, no image in it, or the first cannot be read.
        """
        self._images = list_images(Path(folder))
        self._index = 0
        self._held: Pixels | None = read_image(self._images[0])
        height, width = self._held.shape
        self.info = SourceInfo(width, height, self._held.itemsize * 8, fps, live)
        self.start_ns = None

    def read(self, timeout: float) -> SourceFrame | None:
        if self._index >= len(self._images):
            raise EndOfSource
        fps, lost = self.info.fps or 0, 0
        if self.info.live:
            now_ns = time.monotonic_ns()
            if self.start_ns is None:
                self.start_ns = now_ns
            late_ns = now_ns - self._due_ns(self.start_ns)
            if late_ns > BEHIND_NS:
                lost = min(int(late_ns * fps / 1e9), len(self._images) - 1 - self._index)
                self._index, self._held = self._index + lost, None
        pixels = self._held if self._held is not None else self.place(self._decode())
        captured_ns = time.monotonic_ns()
        if self.start_ns is not None:
            captured_ns = self._due_ns(self.start_ns)
            if not self.wait_until(captured_ns, timeout):
                self._held = pixels
                return None
        camera_ns = self._due_ns(0)
        self._index, self._held = self._index + 1, None
        return SourceFrame(pixels, captured_ns, camera_ns, lost)

    def close(self) -> None:
        self._index, self._held = len(self._images), None

    def _due_ns(self, start_ns: int) -> int:
        return start_ns + round(self._index * 1e9 / (self.info.fps or 0))

    def _decode(self) -> Pixels:
        path = self._images[self._index]
        pixels = read_image(path)
        height, width = pixels.shape
        bits, info = pixels.itemsize * 8, self.info
        if (width, height, bits) != (info.width, info.height, info.bits):
            raise SourceError(
                f"{path}: {width}x{height} of {bits} bit after images of {info.width}x{info.height} of {info.bits} bit"
            )
        return pixels


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder in natural order.

    Raises:
        SourceError: if it is no folder that can be read, or has no image.
    """
    try:
        images = [path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()]
    except OSError as error:
        raise SourceError(f"{folder}: {(error.strerror or str(error)).lower()}; a folder is expected") from None
    if not images:
        raise SourceError(f"{folder}: no image in it; {' '.join(SUFFIXES)} are expected")
    return sorted(images, key=lambda path: ([_number(part) for part in re.split(r"(\d+)", path.name)], path.name))


def read_image(path: Path) -> Pixels:
    """Return an image as uint8 or uint16 ``[height, width]``; 8-bit colour as gray.

    Raises:
        SourceError: if it cannot be read, is cut off, has several pages, or is 16-bit colour or not integer.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise SourceError(f"{path}: {path.stat().st_size} bytes; images of up to {MAX_FILE_BYTES} are read")
        data = np.fromfile(path, np.uint8)
        pages = cv2.imcount(str(path)) if path.suffix.lower() in (".tif", ".tiff") else 1
        pixels = None if _is_cut(data.tobytes()) else cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except OSError as error:
        raise SourceError(f"{path}: {(error.strerror or str(error)).lower()}") from None
    except cv2.error:
        pixels = None
    if pixels is None:
        raise SourceError(f"{path}: damaged, cut off, too large or not an image")
    if pages > 1:
        raise SourceError(f"{path}: {pages} pages; one image a file is expected")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise SourceError(f"{path}: {pixels.dtype} pixels; 8 or 16 bit gray is expected")
    if max(pixels.shape[:2]) > MAX_SIDE:
        raise SourceError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]}; at most {MAX_SIDE} a side are read")
    if pixels.ndim == 3:
        if pixels.dtype == np.uint16:
            raise SourceError(f"{path}: 16-bit colour; 8 or 16 bit gray, or 8-bit colour, is expected")
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGRA2GRAY if pixels.shape[2] == 4 else cv2.COLOR_BGR2GRAY)
    return cast(Pixels, pixels)


def _number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isdecimal() else (-1, part)


def _is_cut(data: bytes) -> bool:
    """Return whether a file has no end: OpenCV fills a JPEG that is cut off with gray and says nothing."""
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith(b"\xff\xd8"):
        return data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")  # a thumbnail's end is before the scan's start
    return not data
