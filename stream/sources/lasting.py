"""A camera that outlives its connection: one that was open in this run is looked for until it is back."""

from __future__ import annotations

import logging
import random
import threading
import time
from contextlib import suppress
from dataclasses import replace
from queue import Empty, SimpleQueue

from stream.sources import masked, open_source
from stream.sources.base import EndOfSource, Source, SourceAway, SourceError, SourceFrame, SourceInfo

BACKOFF_S = (0.25, 8.0)
"""The pause before a camera is tried again, doubled after each try, and the longest one."""
STEADY_S = 5.0
"""A connection that gave frames for this long was a good one: after it the first pause is the short one again."""

_log = logging.getLogger(__name__)


class LastingSource(Source):
    """A camera that is opened again when it was away; meanwhile ``read`` returns None.

    One warning says that it is away, one that it is back. Where its own frames can tell no more, ``lost`` of the first
    one is as many as its rate would have given meanwhile. A camera that has given no frame yet fails as any source
    does, and so does one that gives what cannot be accepted.
    """

    def __init__(self, uri: str, source: Source | None, info: SourceInfo) -> None:
        """Take over an open camera, or look for one.

        Args:
            uri: as ``open_source`` takes it.
            source: the open camera; None for one that gave frames to the process before this one.
            info: what it knows of itself, or did when it was open.
        """
        self.info = info
        self._uri, self._source = uri, source
        self._gave = source is None
        self._began_s = time.monotonic()
        self._last_ns = self._away_ns = 0  # when the last frame came, and since when it is away
        self._pause_s = 0.0
        self._found: SimpleQueue[Source | Exception] = SimpleQueue()
        self._closed = threading.Event()
        if source is None:
            self._look()

    def read(self, timeout: float) -> SourceFrame | None:
        if self._closed.is_set():
            raise EndOfSource
        if self._source is None:
            with suppress(Empty):
                self._welcome(self._found.get(timeout=timeout))
            return None
        try:
            frame = self._source.read(timeout)
        except SourceAway as error:
            if not self._gave:
                raise
            self._source.close()
            self._source = None
            self._miss(error)
            self._look()
            return None
        if frame is None:
            return None
        self._gave = True
        if time.monotonic() - self._began_s >= STEADY_S:
            self._pause_s = 0.0
        if self._away_ns:
            _log.warning("%s: back after %.1f s", masked(self._uri), (frame.captured_ns - self._away_ns) / 1e9)
            # Of a process that takes another's place only the reader knows the last frame.
            missed = (frame.captured_ns - self._last_ns) / 1e9 * (self.info.fps or 0) if self._last_ns else 0
            frame = replace(frame, lost=max(round(missed) - 1, 0))
            self._away_ns = 0
        self._last_ns = frame.captured_ns
        return frame

    def close(self) -> None:
        self._closed.set()
        if self._source:
            self._source.close()
        self._let_go()

    def _miss(self, error: SourceError) -> None:
        """Say once that the camera is away."""
        if not self._away_ns:
            shown, self._away_ns = masked(self._uri), time.monotonic_ns()
            why = str(error).removeprefix(f"{shown}: ")
            _log.warning("%s: away (%s); it is looked for until it is back", shown, why)

    def _welcome(self, found: Source | Exception) -> None:
        if isinstance(found, Exception):
            raise found
        self._source, self.info, self._began_s = found, found.info, time.monotonic()

    def _look(self) -> None:
        # On a thread, since a camera that is away may take seconds to fail; a daemon, since nobody waits for that.
        threading.Thread(target=self._search, name="camera", daemon=True).start()

    def _search(self) -> None:
        """Open the camera or find that the source was closed; a thread's whole life."""
        # Jitter, so that a switch that comes back does not meet all its cameras' readers at once.
        while not self._closed.wait(self._pause_s * random.uniform(0.5, 1.5)):
            self._pause_s = min(max(2 * self._pause_s, BACKOFF_S[0]), BACKOFF_S[1])
            try:
                self._found.put(open_source(self._uri))
            except SourceError as error:
                self._miss(error)
                continue
            except Exception as error:  # a thread's end must not pass for a camera's absence
                self._found.put(error)
            break
        if self._closed.is_set():
            self._let_go()

    def _let_go(self) -> None:
        """Close what was found while nobody wanted it any more."""
        with suppress(Empty):
            found = self._found.get_nowait()
            if isinstance(found, Source):
                found.close()
