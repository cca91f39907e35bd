"""The frame ring: pixels written by one process are read by another, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from stream.ring import FrameRing

SPAWN = multiprocessing.get_context("spawn")


def _invert(ring: FrameRing, bits: int, done: Connection) -> None:
    frame = ring.frame(1, 48, 64, bits)
    ring.targets(1, 48, 64)[:] = (frame & 0xFF).astype(np.uint8) ^ 0xFF
    done.send(int(frame.max()))


@pytest.mark.parametrize(("bits", "largest"), [(8, 255), (16, 65535)])
def test_another_process_reads_the_frame_and_writes_its_target_map(bits: int, largest: int) -> None:
    ring = FrameRing(slots=3)
    frame = np.random.default_rng(0).integers(0, largest + 1, (48, 64), np.uint16 if bits == 16 else np.uint8)
    frame[0, 0] = largest
    ring.frame(1, 48, 64, bits)[:] = frame
    receiver, sender = SPAWN.Pipe(duplex=False)
    process = SPAWN.Process(target=_invert, args=(ring, bits, sender))
    process.start()
    assert receiver.recv() == largest
    process.join()
    np.testing.assert_array_equal(ring.targets(1, 48, 64), (frame & 0xFF).astype(np.uint8) ^ 0xFF)
    ring.close()


def test_slots_do_not_overlap_at_the_largest_frame() -> None:
    ring = FrameRing(slots=2)
    ring.frame(0, 4096, 4096, 16)[-1, -1] = 7
    ring.targets(0, 4096, 4096)[-1, -1] = 8
    ring.frame(1, 4096, 4096, 16)[0, 0] = 9
    assert ring.frame(0, 4096, 4096, 16)[-1, -1] == 7
    assert ring.targets(0, 4096, 4096)[-1, -1] == 8
    assert ring.targets(0, 4096, 4096)[0, 0] == 0
    ring.close()


def test_a_ring_has_no_name_and_takes_no_memory_before_it_is_written() -> None:
    before = set(os.listdir("/dev/shm"))
    ring = FrameRing(slots=8)
    ring.frame(0, 256, 320, 8).fill(1)
    assert set(os.listdir("/dev/shm")) == before
    stat = os.stat(f"/proc/self/fd/{ring._fd}")
    assert stat.st_blocks * 512 < 1024 * 1024 < stat.st_size
    ring.close()


def test_touching_makes_the_pages_of_every_slot() -> None:
    ring = FrameRing(slots=4)
    ring.touch(256, 320, 16)
    stat = Path(f"/proc/self/fd/{ring._fd}").stat()
    assert stat.st_blocks * 512 >= 4 * 256 * 320 * 3
    ring.close()
