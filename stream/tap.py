"""Taps: frames and what was published of them, for a process that looks on after tracking, such as the recorder."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from stream.channel import Channel
from stream.frame import End, FrameRef, Publish, Release, Returned, Stop, TapEnd, Tapped, receive, send, try_send

HOLDS = 4
"""Slots of a stream's ring that a tap may hold; the ring of a stream that is tapped has as many more."""
SKIPPED = "recorder did not answer"


@dataclass
class Tap:
    """The track worker's end of a tap.

    The reader gets ``Tapped``, ``Publish``, ``TapEnd`` and ``Stop``, and answers each ``Tapped``, a
    stream's in their order, with a ``Returned`` once it has read the slot. A reader that does not answer can
    hold ``HOLDS`` slots of a stream and no more: then a live frame goes past it and is counted in
    the next one's ``skipped``, while a file's frame waits for it.

    Attributes:
        out: to the reader.
        back: the slots that it returns.
        returns: released slots, to the capture workers.
    """

    out: Channel
    back: Channel
    returns: Sequence[Channel]
    _held: dict[int, deque[tuple[int, int]]] = field(default_factory=dict)  # slot and seq by stream, oldest first
    _skipped: dict[int, int] = field(default_factory=dict)

    def offer(self, frame: FrameRef, time_ns: int, messages: list[Publish]) -> bool:
        """Give the reader a frame; return whether it holds the slot, which is then returned to capture by the tap.

        Args:
            frame: the frame, tracked and published.
            time_ns: the time that its stream's tracker goes by.
            messages: what was published of it.
        """
        held = self._held.setdefault(frame.stream, deque())
        while len(held) >= HOLDS:
            if frame.live and not self.back.poll(0):
                self._skipped[frame.stream] = self._skipped.get(frame.stream, 0) + 1
                return False
            self.take_back()
        held.append((frame.slot, frame.seq))
        send(self.out, Tapped(frame, time_ns, messages, self._skipped.pop(frame.stream, 0)))
        return True

    def take_back(self) -> None:
        """Take one answer, waiting for it if there is none.

        What the stream gave before it and had no answer is back too: its reader died and was replaced. An answer
        to a tracker that was itself replaced says nothing of what this one gave.
        """
        answer = receive(self.back)
        assert isinstance(answer, Returned)
        held = self._held.get(answer.stream, deque())
        all_of_it = answer.slot < 0
        while held and (all_of_it or (answer.slot, answer.seq) in held):
            slot, seq = held.popleft()
            send(self.returns[answer.stream], Release(slot, seq))

    def held(self, stream: int) -> list[int]:
        """Return the slots of a stream that the reader has."""
        return [slot for slot, _ in self._held.get(stream, ())]

    def say(self, message: Publish) -> None:
        """Give the reader a message of no frame, unless it has stopped reading."""
        try_send(self.out, message)

    def end(self, end: End) -> None:
        """Tell the reader that a stream has ended."""
        send(self.out, TapEnd(end.stream, self._skipped.pop(end.stream, 0)))

    def close(self) -> None:
        """Tell the reader that nothing more comes."""
        send(self.out, Stop())
