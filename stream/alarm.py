"""An alarm that epoll hears to the microsecond: its own timeouts go by whole milliseconds."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

CLOCK_MONOTONIC, TFD_TIMER_ABSTIME = 1, 1
_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """A timer of the kernel's (timerfd; Python has it from 3.13 on).

    Raises:
        OSError: if there is none to be had.
    """

    def __init__(self) -> None:
        self._fd = _libc.timerfd_create(CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    def fileno(self) -> int:
        return int(self._fd)

    def set(self, at_ns: int) -> None:
        """Be heard from a moment on, of the monotonic clock, above 0; an earlier one that was set is forgotten."""
        once = (ctypes.c_long * 4)(0, 0, *divmod(at_ns, 1_000_000_000))
        _libc.timerfd_settime(self._fd, TFD_TIMER_ABSTIME, ctypes.byref(once), None)

    def hush(self) -> None:
        """Be heard no more until it is set again."""
        with suppress(BlockingIOError):
            os.read(self._fd, 8)

    def close(self) -> None:
        os.close(self._fd)
