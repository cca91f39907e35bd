"""A bench's subscriber, in a process of its own: when each frame was due, and when each stage was done with it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import msgspec
import numpy as np
from numpy.typing import NDArray

from stream.client import subscribe
from stream.frame import STAGES
from stream.messages import StatusMessage, TracksMessage
from stream.workers import die_with_parent

STAGES_HEARD = (*STAGES, "deliver")
COLUMNS = ("stream", "seq", "due_ns", *STAGES_HEARD)
SILENCE_S = 130.0  # longer than a pipeline may take to start


@dataclass(frozen=True)
class Heard:
    """What a subscriber heard.

    Attributes:
        rows: int64 ``[messages, len(COLUMNS)]``: the stream's index, the frame's number, when it was due on the
            monotonic clock, and ns since then at the end of each of ``STAGES_HEARD``.
        missed: messages that were published and did not come, by stream.
    """

    rows: NDArray[np.int64]
    missed: dict[str, int]

    def stages_ns(self) -> NDArray[np.int64]:
        """Return how long each stage kept each frame, ``[messages, stages]``."""
        return np.diff(self.rows[:, 3:], axis=1, prepend=0)

    def without_engine_ns(self) -> NDArray[np.int64]:
        """Return how long each frame took from when it was due to its publication, the engine's stage left out."""
        published = self.rows[:, COLUMNS.index("publish")]
        return np.asarray(published - self.stages_ns()[:, STAGES_HEARD.index("engine")])


def listen(endpoint: str, streams: Sequence[str], out: Connection) -> None:
    """Subscribe until every stream has ended, then send what was heard; the main of the process."""
    from setproctitle import setproctitle

    die_with_parent()  # the bench, however that ends
    setproctitle("irstream subscriber")
    rows: list[tuple[int, ...]] = []
    left = set(streams)
    number = {name: index for index, name in enumerate(streams)}
    with subscribe(endpoint, ("tracks", "status"), timeout=SILENCE_S) as messages:
        for message in messages:
            now = time.monotonic_ns()
            if isinstance(message, TracksMessage):
                times = (message.stages[stage] for stage in STAGES)
                due = message.captured_ns
                rows.append((number[message.stream], message.seq, due, *times, now - due))
            elif isinstance(message, StatusMessage) and message.health == "ended":
                left.discard(message.stream)
                if not left:
                    break
        missed = dict(messages.missed)
    out.send_bytes(np.array(rows, np.int64).reshape(-1, len(COLUMNS)).tobytes())
    out.send_bytes(msgspec.msgpack.encode(missed))


def receive_heard(connection: Connection) -> Heard:
    """Return what ``listen`` sent.

    Raises:
        EOFError: if it died first.
    """
    rows = np.frombuffer(connection.recv_bytes(), np.int64).reshape(-1, len(COLUMNS))
    return Heard(rows, msgspec.msgpack.decode(connection.recv_bytes(), type=dict[str, int]))
