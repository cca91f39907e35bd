"""The batcher: which frames the engine gets next."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

from stream.frame import FrameRef

SUPERSEDED = "superseded"
"""Why a live frame was dropped: a fresher one came before the engine was free."""


@dataclass
class _Waiting:
    frames: deque[FrameRef] = field(default_factory=deque)
    dropped: Counter[str] = field(default_factory=Counter)
    served: int = 0


class Batcher:
    """Keeps what waits for the engine, and hands it out fairly.

    Of a live stream only the freshest frame waits; frames of a file all wait (the ring bounds
    them). A batch holds at most one frame a live stream, frames of one size and depth, and begins
    with the stream that has gone unserved the longest.

    Args:
        largest: frames in a batch.
        window_ns: how long the first frame may wait for others while the engine is free.
    """

    def __init__(self, largest: int, window_ns: int) -> None:
        self._largest = largest
        self._window_ns = window_ns
        self._streams: dict[int, _Waiting] = {}
        self._turn = 0

    def add(self, frame: FrameRef) -> FrameRef | None:
        """Let a frame wait; return the one that it supersedes, whose slot is free again."""
        waiting = self._streams.setdefault(frame.stream, _Waiting())
        old = None
        if frame.live and waiting.frames:
            old = waiting.frames.popleft()
            waiting.dropped.update(old.dropped)  # its own news of drops must not be lost with it
            waiting.dropped[SUPERSEDED] += 1
        waiting.frames.append(frame)
        return old

    def take(self, now_ns: int) -> list[FrameRef]:
        """Return the next batch; empty if nothing waits, or if what waits may wait for more."""
        order = sorted((w for w in self._streams.values() if w.frames), key=lambda w: w.served)
        if not order:
            return []
        shape = shape_of(order[0].frames[0])
        batch: list[tuple[_Waiting, FrameRef]] = []
        for waiting in order:
            while waiting.frames and len(batch) < self._largest and shape_of(waiting.frames[0]) == shape:
                batch.append((waiting, waiting.frames.popleft()))
        oldest = min(frame.times["capture"] for _, frame in batch)
        if len(batch) < min(self._largest, len(self._streams)) and now_ns - oldest < self._window_ns:
            for waiting, frame in reversed(batch):
                waiting.frames.appendleft(frame)
            return []
        for waiting, frame in batch:
            self._turn += 1
            waiting.served = self._turn
            if waiting.dropped:
                frame.dropped = dict(Counter(frame.dropped) + waiting.dropped)
                waiting.dropped.clear()
        return [frame for _, frame in batch]

    def wait_ns(self, now_ns: int) -> int | None:
        """Return how long until what waits need wait no more; None if nothing waits."""
        times = [frame.times["capture"] for w in self._streams.values() for frame in w.frames]
        return max(0, min(times) + self._window_ns - now_ns) if times else None

    def holds(self, stream: int) -> bool:
        """Tell whether a frame of the stream waits."""
        return stream in self._streams and bool(self._streams[stream].frames)

    def freshens(self) -> bool:
        """Tell whether a frame waits that a fresher one may still supersede."""
        return any(waiting.frames and waiting.frames[0].live for waiting in self._streams.values())

    def waiting(self, stream: int) -> list[int]:
        """Return the numbers of the stream's frames that wait."""
        return [frame.seq for frame in self._streams[stream].frames] if stream in self._streams else []

    def leave(self, stream: int) -> dict[str, int]:
        """Forget an ended stream; return its drops that no frame has carried yet."""
        waiting = self._streams.pop(stream, _Waiting())
        return dict(waiting.dropped)


def shape_of(frame: FrameRef) -> tuple[int, int, int]:
    """Return what the frames of a batch have in common: height, width and depth."""
    return frame.height, frame.width, frame.bits
