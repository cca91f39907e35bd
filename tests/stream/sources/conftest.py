"""What the tests of sources share."""

import time

import pytest

from stream.sources import network


class Clock:
    """A monotonic clock that only sleeping moves."""

    def __init__(self):
        self.ns = 5_000_000_000

    def monotonic_ns(self):
        return self.ns

    def sleep(self, seconds):
        self.ns += max(round(seconds * 1e9), 1000)


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(time, "monotonic_ns", fake.monotonic_ns)
    monkeypatch.setattr(time, "sleep", fake.sleep)
    return fake


@pytest.fixture
def hasty(monkeypatch):
    """Time-outs that a test can wait for."""
    monkeypatch.setattr(network, "CONNECT_S", 2.0)
    monkeypatch.setattr(network, "SILENCE_S", 1.0)
    monkeypatch.setattr(network, "BACKOFF_S", (0.1, 0.3))
