"""The frame ring: pixels written by one process are read by another, and nothing is left behind."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest

from stream.ring import FrameRing, RingReader
from stream.usage import own_shm

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
    before = own_shm({os.getpid()})
    ring = FrameRing(slots=8)
    ring.frame(0, 256, 320, 8).fill(1)
    assert own_shm({os.getpid()}) == before
    stat = os.stat(f"/proc/self/fd/{ring._fd}")
    assert stat.st_blocks * 512 < 1024 * 1024 < stat.st_size
    ring.close()


def test_touching_makes_the_pages_of_every_slot() -> None:
    ring = FrameRing(slots=4)
    ring.touch(256, 320, 16)
    stat = Path(f"/proc/self/fd/{ring._fd}").stat()
    assert stat.st_blocks * 512 >= 4 * 256 * 320 * 3
    ring.close()


@pytest.mark.parametrize("bits", [8, 16])
def test_who_looks_on_finds_a_frame_by_its_number_until_its_slot_is_given_to_another(bits: int) -> None:
    ring = FrameRing(slots=3)
    reader = RingReader(ring.path)
    frame = np.random.default_rng(0).integers(0, 1 << bits, (48, 64)).astype(f"u{bits // 8}")
    ring.frame(1, 48, 64, bits)[:] = frame
    ring.targets(1, 48, 64)[:] = 7
    assert reader.copy(0, 48, 64, targets=False) is None
    ring.mark(1, 0, bits, 10.0, 200.0)
    copied = reader.copy(0, 48, 64, targets=False)
    assert copied is not None
    np.testing.assert_array_equal(copied[0], frame)
    assert (copied[0].dtype, *copied[1:]) == (frame.dtype, 10.0, 200.0)
    assert (reader.copy(0, 48, 64, targets=True) or [np.zeros(0)])[0].tolist() == [[7] * 64] * 48
    ring.unmark(1)
    assert reader.copy(0, 48, 64, targets=False) is None
    ring.close()


def test_a_ring_that_is_not_the_one_named_is_not_read() -> None:
    """A number of a descriptor may have gone to another file; its name tells."""
    ring = FrameRing(slots=1)
    link = ring.path.partition(" ")[0]
    for path in ("", f"{link} /memfd:another (deleted)", "/proc/0/fd/0 /memfd:gone (deleted)"):
        with pytest.raises(FileNotFoundError):
            RingReader(path)
    ring.close()
