"""The frame ring: one stream's slots in memory that all workers share.

The memory is an anonymous file (memfd), handed to the workers as a descriptor. It has no name, so
nothing can be left behind in /dev/shm, whoever is killed, and no resource tracker meddles with it.
Its size is an upper limit: pages that were never written take no memory.

Behind the slots and their marks is the stream's ledger: what a worker that replaces a dead one must know.

A mark a slot says which frame is in it, so that a process of the same user that looks
on (the live view) finds a frame by its number without a word to the pipeline.
"""

from __future__ import annotations

import mmap
import os
import secrets
from functools import cached_property
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 4096 * 4096
SLOT_BYTES = MAX_PIXELS * 3  # a frame of up to 16 bits a pixel, and its target map
MARK = np.dtype([("number", "<i8"), ("bits", "<i8"), ("low", "<f8"), ("high", "<f8")])  # number: seq + 1; 0 is none
LEDGER = np.dtype([
    ("next_seq", "<i8"), ("origin_ns", "<i8"), ("captured_ns", "<i8"),
    ("next_id", "<i8"), ("published", "<i8"), ("passed", "<i8"),
])  # fmt: skip
LEDGER_BYTES = 64
MOST_VIEWS = 256


class FrameRing:
    """Slots that each hold a frame and the target map made of it.

    Who may write where is settled by the descriptors that travel between the workers: capture
    owns the free slots, sends a filled one on, and gets it back once the tracker has read it.
    """

    def __init__(self, slots: int) -> None:
        self._attach(os.memfd_create(f"irstream-ring-{secrets.token_hex(6)}"), slots)
        os.ftruncate(self._fd, slots * (SLOT_BYTES + MARK.itemsize) + LEDGER_BYTES)

    @property
    def path(self) -> str:
        """Where a process of the same user finds the memory while this one lives: the path, then what it links to."""
        path = f"/proc/{os.getpid()}/fd/{self._fd}"
        return f"{path} {os.readlink(path)}"

    def _attach(self, fd: int, slots: int) -> None:
        self._fd = fd
        self.slots = slots
        self._map: mmap.mmap | None = None
        self._views: dict[tuple[int, int, int, np.dtype[Any]], NDArray[Any]] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (reduction.DupFd(self._fd), self.slots)

    def frame(self, slot: int, height: int, width: int, bits: int) -> NDArray[Any]:
        """Return a slot's frame as a view, uint8 or uint16 ``[height, width]``."""
        return self._view(slot * SLOT_BYTES, height, width, np.dtype("u1" if bits == 8 else "<u2"))

    def targets(self, slot: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a slot's target map as a view, uint8 ``[height, width]``."""
        return self._view(slot * SLOT_BYTES + 2 * MAX_PIXELS, height, width, np.dtype("u1"))

    def mark(self, slot: int, seq: int, bits: int, low: float, high: float) -> None:
        """Say which frame is in a slot, once it is there."""
        self._marks[slot] = (seq + 1, bits, low, high)

    def holds(self, slot: int, seq: int) -> bool:
        """Tell whether a slot still has the frame of that number."""
        return bool(self._marks["number"][slot] == seq + 1)

    def unmark(self, slot: int) -> None:
        """Say that a slot's frame is about to be overwritten."""
        self._marks["number"][slot] = 0

    def touch(self, height: int, width: int, bits: int) -> None:
        """Write every slot once, so that no frame pays for its pages being made."""
        for slot in range(self.slots):
            self.frame(slot, height, width, bits).fill(0)
            self.targets(slot, height, width).fill(0)
            self.unmark(slot)

    def _view(self, offset: int, height: int, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        key = offset, height, width, dtype
        if (view := self._views.get(key)) is None:
            if len(self._views) >= MOST_VIEWS:
                self._views.clear()
            view = np.frombuffer(self._memory(), dtype, height * width, offset).reshape(height, width)
            self._views[key] = view  # the same few again and again: to make one takes longer than to find it
        return view

    @cached_property
    def _marks(self) -> NDArray[Any]:
        return np.frombuffer(self._memory(), MARK, self.slots, self.slots * SLOT_BYTES)

    @property
    def ledger(self) -> NDArray[Any]:
        """The stream's ledger, a record that outlives the workers.

        Capture's are ``next_seq``, the number of its next frame; ``origin_ns``, when a source that paces itself
        began; and ``captured_ns``, of the last frame. The tracker's are ``next_id`` of a track; ``published``, the
        frames that were; and ``passed``, the number after that of the last of them.
        """
        return np.frombuffer(self._memory(), LEDGER, 1, self.slots * (SLOT_BYTES + MARK.itemsize))

    def _memory(self) -> mmap.mmap:
        if self._map is None:
            self._map = mmap.mmap(self._fd, self.slots * (SLOT_BYTES + MARK.itemsize) + LEDGER_BYTES)
        return self._map

    def close(self) -> None:
        """Let go of the descriptor; the memory goes when the last worker has let go of its own."""
        os.close(self._fd)


class RingReader:
    """A ring of another process's, mapped to be read; it costs that process nothing.

    Args:
        path: as ``FrameRing.path`` gave it.

    Raises:
        OSError: if it is not there: another host's, another user's, or its pipeline has ended.
    """

    def __init__(self, path: str) -> None:
        link, _, name = path.partition(" ")
        if not name or os.readlink(link) != name:  # another process may have the number by now
            raise FileNotFoundError(path)
        fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self.slots = len(self._map) // (SLOT_BYTES + MARK.itemsize)
        self._marks = np.frombuffer(self._map, MARK, self.slots, self.slots * SLOT_BYTES)

    def copy(self, seq: int, height: int, width: int, targets: bool) -> tuple[NDArray[Any], float, float] | None:
        """Return a copy of a frame, or of its target map, and the values to be shown as black and white.

        None if its slot has been given to another frame, or was while we copied.
        """
        for slot in np.flatnonzero(self._marks["number"] == seq + 1):
            _, bits, low, high = self._marks[slot].tolist()
            dtype = np.dtype("u1" if targets or bits == 8 else "<u2")
            offset = int(slot) * SLOT_BYTES + (2 * MAX_PIXELS if targets else 0)
            pixels = np.frombuffer(self._map, dtype, height * width, offset).reshape(height, width).copy()
            if self._marks["number"][slot] == seq + 1:
                return (pixels, 0.0, 255.0) if targets else (pixels, low, high)
        return None


def _inherit(handle: Any, slots: int) -> FrameRing:  # noqa: ANN401 (multiprocessing's handle has no public type)
    ring = FrameRing.__new__(FrameRing)
    ring._attach(handle.detach(), slots)
    return ring
