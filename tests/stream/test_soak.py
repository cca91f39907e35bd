"""The soak's verdict: what grew or failed is named, nothing else is, and only the run's own shared memory counts."""

from __future__ import annotations

import mmap
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from stream.messages import StatusMessage
from stream.soak import Soak
from stream.usage import own_shm


def seen(minutes: int = 30) -> Soak:
    """A run that was looked at for so many minutes and did not change."""
    soak = Soak(minutes)
    for minute in range(minutes):
        soak.pss_mb[minute]["track"] = [100.0] * 12
        soak.handles[minute]["track"] = [20] * 12
        soak.pids[minute]["track"] = {7}
        soak.shm[minute] = [0] * 12
        soak.latencies_ns[minute] = [1_000_000] * 100
    return soak


def status(restarts: dict[str, int]) -> StatusMessage:
    return StatusMessage(
        stream="sky", health="ok", frames=9, fps=30, dropped={}, latency_ms={}, tracks=0, restarts=restarts
    )


@pytest.mark.parametrize(
    ("what", "change", "says"),
    [
        ("pss_mb", lambda soak: soak.pss_mb[29].update(track=[101.5] * 12), "track: 100.0 MB in minute 5, 101.5 MB"),
        ("handles", lambda soak: soak.handles[29].update(track=[21] * 12), "track: 20 handles in minute 5, 21 in"),
        ("shm", lambda soak: soak.shm.update({29: [0, 1]}), "/dev/shm: 0 entries in minute 5, 1 in the last"),
        ("process", lambda soak: soak.pss_mb[29].pop("track"), "track: it has ended"),
        ("process that comes back", lambda soak: soak.pss_mb[12].pop("track"), "track: it was away in minute 12"),
        (
            "another of its name",
            lambda soak: [soak.pids[m].update(track={8}) for m in range(12, 30)],
            "track: it is another process since minute 12",
        ),
        (
            "one that comes later",
            lambda soak: [soak.pss_mb[m].update(helper=[10.0 * m]) for m in range(7, 30)],
            "helper: it was not there in minute 5, but later",
        ),
        ("no frame", lambda soak: soak.latencies_ns[9].clear(), "no frame came in minute 9"),
        ("missed", lambda soak: soak.missed.update(sky=3), "sky: 3 messages were missed"),
        ("restart", lambda soak: soak.hear(status({"track: it stalled": 1}), 3), "restarted: track: it stalled"),
        (
            "latency",
            lambda soak: [soak.latencies_ns.update({m: [1_200_000] * 100}) for m in range(25, 30)],
            "p99 of latency: 1.0 ms in the first 5 minutes, 1.2 ms in the last",
        ),
    ],
)
def test_what_grew_is_named(what: str, change: object, says: str) -> None:
    soak = seen()
    soak.hear(status({}), 3)
    assert soak.verdict() == []
    change(soak)
    (fault,) = soak.verdict()
    assert fault.startswith(says)


def test_too_short_a_run_tells_nothing() -> None:
    assert seen(2).verdict() == ["2 minutes were seen; 3 are needed to tell anything"]


@pytest.fixture
def others() -> Iterator[Path]:
    path = Path(f"/dev/shm/others-{secrets.token_hex(8)}")
    path.write_bytes(bytes(4096))
    yield path
    path.unlink()


def test_only_its_own_shared_memory_counts(others: Path) -> None:
    """What has its name or a process's number, and what a process has mapped; not what is another program's."""
    assert others.name not in own_shm({os.getpid()})
    with others.open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        assert others.name in own_shm({os.getpid()})
    mine = Path(f"/dev/shm/psm_{os.getpid()}")
    mine.touch()
    assert mine.name in own_shm({os.getpid()})
    mine.unlink()
