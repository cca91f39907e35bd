"""The frame ring: one stream's slots in memory that all workers share.

The memory is an anonymous file (memfd), handed to the workers as a descriptor. It has no name, so
nothing can be left behind in /dev/shm, whoever is killed, and no resource tracker meddles with it.
Its size is an upper limit: pages that were never written take no memory.
"""

from __future__ import annotations

import mmap
import os
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_PIXELS = 4096 * 4096
SLOT_BYTES = MAX_PIXELS * 3  # a frame of up to 16 bits a pixel, and its target map


class FrameRing:
    """Slots that each hold a frame and the target map made of it.

    Who may write where is settled by the descriptors that travel between the workers: capture
    owns the free slots, sends a filled one on, and gets it back once the tracker has read it.
    """

    def __init__(self, slots: int) -> None:
        self._attach(os.memfd_create("irstream-ring"), slots)
        os.ftruncate(self._fd, slots * SLOT_BYTES)

    def _attach(self, fd: int, slots: int) -> None:
        self._fd = fd
        self.slots = slots
        self._map: mmap.mmap | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (reduction.DupFd(self._fd), self.slots)

    def frame(self, slot: int, height: int, width: int, bits: int) -> NDArray[Any]:
        """Return a slot's frame as a view, uint8 or uint16 ``[height, width]``."""
        return self._view(slot * SLOT_BYTES, height, width, np.dtype("u1" if bits == 8 else "<u2"))

    def targets(self, slot: int, height: int, width: int) -> NDArray[np.uint8]:
        """Return a slot's target map as a view, uint8 ``[height, width]``."""
        return self._view(slot * SLOT_BYTES + 2 * MAX_PIXELS, height, width, np.dtype("u1"))

    def touch(self, height: int, width: int, bits: int) -> None:
        """Write every slot once, so that no frame pays for its pages being made."""
        for slot in range(self.slots):
            self.frame(slot, height, width, bits).fill(0)
            self.targets(slot, height, width).fill(0)

    def _view(self, offset: int, height: int, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        if self._map is None:
            self._map = mmap.mmap(self._fd, self.slots * SLOT_BYTES)
        return np.frombuffer(self._map, dtype, height * width, offset).reshape(height, width)

    def close(self) -> None:
        """Let go of the descriptor; the memory goes when the last worker has let go of its own."""
        os.close(self._fd)


def _inherit(handle: Any, slots: int) -> FrameRing:  # noqa: ANN401 (multiprocessing's handle has no public type)
    ring = FrameRing.__new__(FrameRing)
    ring._attach(handle.detach(), slots)
    return ring
