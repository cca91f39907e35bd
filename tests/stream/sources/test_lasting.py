"""Cameras that go away and come back; the network's own are in ``test_network.py``."""

import logging
import threading
import time

import numpy as np
import pytest

from stream.sources import lasting, masked
from stream.sources.base import EndOfSource, Source, SourceAway, SourceError, SourceFrame, SourceInfo
from stream.sources.lasting import LastingSource
from tests.stream.sources.live import next_frame, wait_for

URI = "rtsp://user:geheim@127.0.0.1/1"
INFO = SourceInfo(4, 3, 8, 10.0, live=True)


class Camera(Source):
    """Gives the frames captured at the times given, seconds; then it fails as it is told."""

    def __init__(self, times, fault=None):
        self.info, self.times, self.fault, self.closed = INFO, list(times), fault, False

    def read(self, timeout):
        if not self.times:
            raise self.fault or SourceAway(f"{masked(URI)}: gone")
        return SourceFrame(np.zeros((3, 4), np.uint8), round(self.times.pop(0) * 1e9), lost=7)

    def close(self):
        self.closed = True


@pytest.fixture
def tries(monkeypatch):
    """What opening gives, one after the other, and when it was asked for."""
    found, asked = [], []

    def open_source(uri):
        assert uri == URI
        asked.append(time.monotonic())
        if not found or found[0] is None:
            del found[:1]
            raise SourceError("rtsp://user:***@127.0.0.1/1: cannot be opened (connection refused)")
        return found.pop(0)

    monkeypatch.setattr(lasting, "open_source", open_source)
    monkeypatch.setattr(lasting, "BACKOFF_S", (0.02, 0.1))
    return found, asked


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_camera_that_fails_is_opened_again_and_what_it_missed_is_counted(tries, caplog):
    first = Camera([5.0, 5.1])
    tries[0].extend([None, None, Camera([9.1, 9.2])])
    source = LastingSource(URI, first, INFO)
    assert [next_frame(source).lost for _ in range(2)] == [7, 7]
    # 4 s at 10 frames a second; then the camera's own count.
    assert [next_frame(source).lost for _ in range(2)] == [39, 7]
    assert first.closed
    assert len(tries[1]) == 3
    away, back = said(caplog)
    assert away == "rtsp://user:***@127.0.0.1/1: away (gone); it is looked for until it is back"
    assert "back after" in back
    source.close()


def test_in_another_process_it_need_not_be_there(tries, caplog):
    """What it missed there its reader counts, who knows the last frame."""
    tries[0].extend([None, Camera([9.0])])
    source = LastingSource(URI, None, INFO)
    assert next_frame(source).lost == 0
    assert [line.partition("1/1: ")[2][:10] for line in said(caplog)] == ["away (cann", "back after"]
    source.close()


def test_one_that_is_there_at_once_is_no_word_worth(tries, caplog):
    tries[0].append(Camera([9.0]))
    source = LastingSource(URI, None, INFO)
    assert next_frame(source).lost == 7
    assert said(caplog) == []


@pytest.mark.parametrize(
    ("times", "fault"),
    [
        # A camera that was never seen to give a frame.
        ([], SourceAway("it is silent")),
        # One whose frames cannot be accepted.
        ([5.0], SourceError("it is too wide")),
    ],
)
def test_what_looking_again_would_not_mend_is_an_error(tries, times, fault):
    source = LastingSource(URI, Camera(times, fault), INFO)
    assert all(source.read(0.1) for _ in times)
    with pytest.raises(SourceError, match="it is"):
        source.read(0.1)
    assert tries[1] == []


def test_one_that_comes_and_goes_is_asked_ever_more_rarely(tries, monkeypatch):
    tries[0].extend(Camera([5.0]) for _ in range(12))
    source = LastingSource(URI, None, INFO)
    wait_for(lambda: source.read(0.01) or len(tries[1]) >= 12)
    wait_for(lambda: source.read(0.01) is None and len(tries[1]) >= 12)
    assert (np.diff(tries[1])[4:] >= 0.05 * 0.95).all()
    monkeypatch.setattr(lasting, "STEADY_S", 0.0)
    tries[0].extend(Camera([5.0] * 9) for _ in range(2))
    wait_for(lambda: source.read(0.01))
    assert source._pause_s == 0
    source.close()


def test_closing_does_not_wait_for_a_try_and_leaves_nothing_open(tries, monkeypatch):
    late, closed = Camera([5.0]), threading.Event()

    def slow(uri):
        closed.wait(10)
        return late

    monkeypatch.setattr(lasting, "open_source", slow)
    source = LastingSource(URI, None, INFO)
    started = time.monotonic()
    assert source.read(0.05) is None
    source.close()
    source.close()
    assert time.monotonic() - started < 1
    closed.set()
    wait_for(lambda: late.closed)
    with pytest.raises(EndOfSource):
        source.read(0.1)
