"""The workers: one process a file, one ``main()`` each. ``work`` is where each of them starts."""

from __future__ import annotations

import ctypes
import gc
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from engine.asides import AS_JSON, say_traceback, speak_json
from engine.contract import EngineError
from stream import StreamError, beats
from stream.frame import Failed, Port, send
from stream.output import forgive

PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29


def die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies, however it dies."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def wake_on_time() -> None:
    """Let this thread's timers go off when they are due; the kernel else takes up to 50 us more, to save power."""
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1)


def work(main: Callable[..., None], name: str, reports: Port, supervisor: int, arguments: tuple[object, ...]) -> None:
    """Run a worker's ``main(*arguments, reports)`` in this new process and report how it failed, if it did.

    Args:
        main: the worker.
        name: what the process is called.
        reports: to the supervisor.
        supervisor: its process id; when it dies, however it dies, our parent does, if it is not that itself, and this
            process with it.
        arguments: the worker's own.
    """
    die_with_parent()
    if _has_gone(supervisor):  # before we asked to be told
        sys.exit(1)
    wake_on_time()
    import cv2
    from setproctitle import setproctitle

    cv2.setNumThreads(1)  # a worker is one of many; its maps are too small to share out
    setproctitle(f"irstream {name}")
    forgive(stdout=False)
    if AS_JSON in os.environ:
        speak_json(name)
    gc.freeze()  # what was imported stays; to look through it again and again would cost frames milliseconds
    try:
        main(*arguments, reports)
    except (StreamError, EngineError) as error:
        send(reports, Failed(str(error), bad_input=True))
        sys.exit(2)
    except Exception as error:
        if _has_gone(supervisor):  # and its ends of our channels; we follow in a moment
            sys.exit(1)
        say_traceback(error, name)
        send(reports, Failed(f"{name}: {type(error).__name__}: {error}", bad_input=False))
        sys.exit(1)


def _has_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def work_watched(pulses: beats.Beats, number: int, *arguments: Any) -> None:  # noqa: ANN401 (those of work)
    """Do as ``work`` does, with heartbeat ``number`` of ``pulses``."""
    beats.begin(pulses, number)
    work(*arguments)
