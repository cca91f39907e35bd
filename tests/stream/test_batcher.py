"""The batcher: freshest first for live streams, all of them for files, fair to everyone."""

from __future__ import annotations

from collections import Counter

import pytest

from stream.batcher import SUPERSEDED, Batcher
from stream.frame import FrameRef

MS = 1_000_000


def frame(stream: int, seq: int, live: bool = True, width: int = 320, bits: int = 8, at_ms: int = 0) -> FrameRef:
    return FrameRef(
        stream=stream,
        slot=seq % 8,
        seq=seq,
        width=width,
        height=256,
        bits=bits,
        live=live,
        low=0,
        high=255,
        captured_ns=at_ms * MS,
        captured_utc_ns=0,
        camera_ns=None,
        dropped={},
        times={"capture": at_ms * MS},
        truth=None,
    )


def seqs(batch: list[FrameRef]) -> list[tuple[int, int]]:
    return [(f.stream, f.seq) for f in batch]


def test_a_fresher_live_frame_takes_the_place_of_an_older_one_and_says_so() -> None:
    batcher = Batcher(8, 0)
    assert batcher.add(frame(0, 0)) is None
    assert batcher.add(frame(0, 1)).seq == 0
    assert batcher.add(frame(0, 2)).seq == 1
    (kept,) = batcher.take(0)
    assert (kept.seq, kept.dropped) == (2, {SUPERSEDED: 2})


def test_news_of_drops_outlives_the_frame_that_carried_it() -> None:
    batcher = Batcher(8, 0)
    first = frame(0, 3)
    first.dropped = {"lost by the camera": 3}
    batcher.add(first)
    batcher.add(frame(0, 4))
    (kept,) = batcher.take(0)
    assert kept.dropped == {"lost by the camera": 3, SUPERSEDED: 1}


def test_frames_of_a_file_all_wait_their_turn() -> None:
    batcher = Batcher(2, 0)
    for seq in range(5):
        assert batcher.add(frame(0, seq, live=False)) is None
    assert [seqs(batcher.take(0)) for _ in range(4)] == [[(0, 0), (0, 1)], [(0, 2), (0, 3)], [(0, 4)], []]


def test_the_stream_unserved_the_longest_goes_first() -> None:
    batcher = Batcher(1, 0)
    served = []
    for seq in range(9):
        for stream in range(3):
            batcher.add(frame(stream, seq))
        served.append(batcher.take(0)[0].stream)
    assert sorted(served[:3]) == [0, 1, 2]
    assert served == served[:3] * 3


def test_a_batch_holds_frames_of_one_size_and_depth() -> None:
    batcher = Batcher(8, 0)
    for stream, (width, bits) in enumerate([(320, 8), (640, 8), (320, 16), (320, 8)]):
        batcher.add(frame(stream, 0, width=width, bits=bits))
    assert [seqs(batcher.take(0)) for _ in range(4)] == [[(0, 0), (3, 0)], [(1, 0)], [(2, 0)], []]


def test_it_waits_for_no_one_longer_than_its_window() -> None:
    batcher = Batcher(8, 5 * MS)
    batcher.add(frame(1, 0))
    batcher.take(9 * MS)  # both streams are known from here on
    batcher.add(frame(0, 0, at_ms=10))
    assert batcher.take(12 * MS) == []
    assert batcher.wait_ns(12 * MS) == 3 * MS
    assert seqs(batcher.take(15 * MS)) == [(0, 0)]


def test_it_waits_for_no_one_once_everyone_is_there() -> None:
    batcher = Batcher(8, 5 * MS)
    batcher.add(frame(0, 0, at_ms=10))
    batcher.add(frame(1, 0, at_ms=10))
    assert seqs(batcher.take(10 * MS)) == [(0, 0), (1, 0)]


def test_a_stream_that_leaves_hands_over_the_drops_nobody_has_told() -> None:
    batcher = Batcher(8, 0)
    batcher.add(frame(0, 0))
    batcher.add(frame(0, 1))
    assert batcher.holds(0)
    assert batcher.leave(0) == {SUPERSEDED: 1}
    assert not batcher.holds(0)
    assert batcher.leave(0) == {}


OVERLOADS = {
    "four alike": ([30, 30, 30, 30], [320] * 4, 1),
    "one at half the rate": ([30, 30, 30, 15], [320] * 4, 1),
    "one that is all but idle": ([30, 30, 30, 2], [320] * 4, 1),
    "rates that never meet": ([29.97, 30, 23.976, 50], [320] * 4, 1),
    "two sizes": ([30, 30, 30, 30], [320, 640, 320, 320], 1),
    "batches of four": ([30, 30, 30, 30, 30, 30], [320] * 6, 4),
    "batches of four, two sizes": ([30, 30, 30, 30, 30], [320, 320, 320, 320, 640], 4),
}


@pytest.mark.parametrize("case", OVERLOADS)
def test_an_engine_that_is_too_slow_is_shared_fairly_and_gets_nothing_stale(case: str) -> None:
    """A minute of an engine three times too slow, its clock simulated: every stream has 80 % of its share or all that
    it asks for, and no frame is older than its stream's period when the engine gets it."""
    rates, widths, largest = OVERLOADS[case]
    batcher = Batcher(largest, 0)
    engine_ns = 3 * 1e9 / sum(rates)  # a frame
    due = [(seq * 1e9 / rate, stream, seq) for stream, rate in enumerate(rates) for seq in range(round(61 * rate))]
    now, served = 0.0, Counter[int]()
    due.sort(reverse=True)
    while now < 60e9:
        while due[-1][0] <= now:
            at, stream, seq = due.pop()
            batcher.add(frame(stream, seq, width=widths[stream], at_ms=int(at / MS)))
        batch = batcher.take(round(now))
        for taken in batch:
            served[taken.stream] += 1
            assert now - taken.captured_ns <= 1e9 / rates[taken.stream] + MS
        now = now + engine_ns * len(batch) if batch else due[-1][0]
    left, share, waiting = sum(served.values()), 0.0, sorted(60 * rate for rate in rates)
    for index, asked in enumerate(waiting):  # who asks for less than its part leaves the rest to the others
        share = left / (len(waiting) - index)
        if asked >= share:
            break
        left -= asked
    assert all(served[stream] >= 0.8 * min(share, 60 * rate) for stream, rate in enumerate(rates)), served
