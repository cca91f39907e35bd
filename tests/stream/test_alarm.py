"""An alarm is heard when it is due, by epoll, without whole milliseconds."""

from __future__ import annotations

import select
import time

from stream.alarm import Alarm


def test_it_is_heard_when_it_is_due_and_not_before() -> None:
    """Set for a moment to come it is not heard yet; then it is, until it is hushed."""
    alarm, news = Alarm(), select.epoll()
    news.register(alarm.fileno(), select.EPOLLIN)
    assert news.poll(0) == []
    due = time.monotonic_ns() + 300_000
    alarm.set(due)
    assert news.poll(20) == [(alarm.fileno(), select.EPOLLIN)]
    assert time.monotonic_ns() >= due
    alarm.hush()
    assert news.poll(0) == []
    alarm.hush()  # with nothing to hush
    alarm.close()


def test_the_last_moment_that_was_set_counts() -> None:
    """An hour from now is forgotten for now."""
    alarm, news = Alarm(), select.epoll()
    news.register(alarm.fileno(), select.EPOLLIN)
    alarm.set(time.monotonic_ns() + 3_600_000_000_000)
    alarm.set(time.monotonic_ns())
    assert news.poll(20)
    alarm.close()
