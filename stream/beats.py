"""Heartbeats: counters in shared memory by which the supervisor sees that a worker runs, and that it gets on.

A thread of each worker counts its pulse, which stops when the process is stopped; its main loop counts its steps,
which stop when it hangs. Nothing is sent, so that a supervisor that was stopped itself finds no backlog.
"""

from __future__ import annotations

import mmap
import os
import threading
from multiprocessing import reduction
from typing import Any

import numpy as np
from numpy.typing import NDArray

PULSE_S = 0.3
PULSE, STEPS = 0, 1


class Beats:
    """The counters of all workers, int64 ``[workers, 2]``: pulse and steps; steps of 0 are not watched."""

    def __init__(self, workers: int) -> None:
        fd = os.memfd_create("irstream-beats")
        os.ftruncate(fd, workers * 16)
        self._attach(fd, workers)

    def _attach(self, fd: int, workers: int) -> None:
        self._fd, self._workers = fd, workers
        self.counts: NDArray[np.int64] = np.frombuffer(mmap.mmap(fd, workers * 16), np.int64).reshape(workers, 2)

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (reduction.DupFd(self._fd), self._workers)

    def close(self) -> None:
        os.close(self._fd)


class _Mine:
    """This process's own counters."""

    counts: NDArray[np.int64] = np.zeros(2, np.int64)


def begin(beats: Beats, worker: int) -> None:
    """Count this process's beats in ``beats`` from now on."""
    _Mine.counts = beats.counts[worker]
    _Mine.counts[STEPS] = 0
    threading.Thread(target=_pulse, name="pulse", daemon=True).start()


def step() -> None:
    """Say that the main loop gets on; once said, it must be said at least every ``supervisor.HANG_S``."""
    _Mine.counts[STEPS] += 1


def _pulse() -> None:
    pause = threading.Event()
    while True:
        _Mine.counts[PULSE] += 1
        pause.wait(PULSE_S)


def _inherit(handle: Any, workers: int) -> Beats:  # noqa: ANN401 (multiprocessing's handle has no public type)
    beats = Beats.__new__(Beats)
    beats._attach(handle.detach(), workers)
    return beats
