"""A subscriber that stops reading slows nobody, loses only its own messages, and can tell; one that is late is served.

Real processes throughout: the pipeline, a subscriber that is stopped with SIGSTOP, and one beside it that reads on.
"""

from __future__ import annotations

import itertools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq

from stream.client import subscribe
from stream.messages import StatusMessage, TracksMessage, decode
from tests.pipeline import ROOT, Run, wait_until

CAMERAS = [f"scene:?seed={n}&width=64&height=64&fps=150&targets=0&loop=4" for n in range(2)]
MORE_THAN_QUEUES = 2000  # messages: ZeroMQ's queues and the sockets' buffers hold a thousand at most


class Listener:
    """``python -m stream.subscribe`` in a process, its messages in a file, so that only a signal stops it."""

    def __init__(self, endpoint: str, path: Path, *arguments: object) -> None:
        self.path = path
        command = [sys.executable, "-m", "stream.subscribe", endpoint, "--json", *map(str, arguments)]
        with path.open("w") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, text=True, stdout=file, stderr=subprocess.PIPE)

    def messages(self) -> list[dict]:
        whole, _, _ = self.path.read_text().rpartition("\n")
        return [json.loads(line) for line in whole.splitlines()]

    def wait_for(self, enough: Callable[[list[dict]], bool], what: str) -> None:
        wait_until(lambda: enough(self.messages()), 60, what)

    def end(self) -> str:
        self.process.send_signal(signal.SIGINT)
        return self.process.communicate(timeout=60)[1]


def test_a_subscriber_that_stops_reading_slows_nobody_and_knows_what_it_missed(tmp_path: Path) -> None:
    """While it is stopped, another misses nothing; once it goes on, it gets what is published then; its count of
    missed messages is the gaps in its numbers. One that comes only then begins with what is published then."""
    run = Run(*(part for camera in CAMERAS for part in ("--source", camera)), "--engine", "null")
    stuck = Listener(run.endpoint, tmp_path / "stuck")
    stuck.wait_for(lambda messages: len(messages) >= 10, "the subscriber's first messages")
    with subscribe(run.endpoint, timeout=30) as healthy:
        next(healthy)
        stuck.process.send_signal(signal.SIGSTOP)
        last = {message.stream: message.seq for message in itertools.islice(healthy, MORE_THAN_QUEUES)}
        stuck.process.send_signal(signal.SIGCONT)
        assert len(last) == 2
        assert healthy.missed.total() == 0
    stuck.wait_for(lambda messages: any(m["seq"] > last[m["stream"]] for m in messages[-50:]), "news")
    late = Listener(run.endpoint, tmp_path / "late", "--count", 1)
    late.process.wait(timeout=60)
    (first,) = late.messages()
    assert first["seq"] > last[first["stream"]]

    said = stuck.end()
    assert stuck.process.returncode == 0, said
    total = 0
    for stream in last:
        mine = [message for message in stuck.messages() if message["stream"] == stream]
        gaps = sum(b["seq"] - a["seq"] - 1 - sum(b["dropped"].values()) for a, b in itertools.pairwise(mine))
        line = re.search(rf"^{stream}: (\d+) messages, (\d+) missed; age (\S+) ms on average, (\S+) ms", said, re.M)
        assert line, said
        assert (int(line[1]), int(line[2])) == (len(mine), gaps)
        assert 0 < float(line[3]) <= float(line[4])
        total += gaps
    assert total > 0

    run.process.send_signal(signal.SIGINT)
    outcome = run.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err


@pytest.mark.parametrize("interrupted", [False, True], ids=["reads-on", "Ctrl-C"])
def test_a_file_run_waits_at_its_end_until_a_slow_subscriber_has_all(interrupted: bool, tmp_path: Path) -> None:
    """It reads nothing until the run waits for it, then so much that all is published and not all of it is taken."""
    scene = f"scene:?seed=1&width=64&height=64&targets=0&loop=4&frames={MORE_THAN_QUEUES}"
    said = tmp_path / "said"
    with said.open("w") as file:
        run = Run("--source", scene, "--file", "--engine", "null", "--wait-for", 2, says=file)
    with (
        subscribe(run.endpoint, timeout=60) as slow,
        zmq.Context() as context,
        context.socket(zmq.SUB) as healthy,
    ):
        healthy.linger = 0
        healthy.connect(run.endpoint)
        healthy.subscribe("")
        assert healthy.poll(60_000)
        published, got, most, last = 0, [], 0, None
        while not (isinstance(last, StatusMessage) and last.health == "ended"):
            if healthy.poll(0 if len(got) < most else 2_000):  # else it waits for the slow one
                last = decode(*(healthy.recv_string(), healthy.recv()))
                published = last.published if isinstance(last, TracksMessage) else published
            elif len(got) < most:
                got.append(next(slow))
            elif published > 400:  # what the queues hold
                most = max(MORE_THAN_QUEUES - published, most) + 20  # a little more, until all is published
        wait_until(lambda: "subscribers are still taking the last messages" in said.read_text(), 30, "the run's word")
        if interrupted:
            run.process.send_signal(signal.SIGINT)
            run.process.wait(timeout=10)
        else:
            got += itertools.islice(slow, MORE_THAN_QUEUES - len(got))
            assert [message.seq for message in got if isinstance(message, TracksMessage)] == [*range(MORE_THAN_QUEUES)]
            assert slow.missed.total() == 0
    outcome = run.end()
    assert (outcome.code, outcome.left) == (0, []), said.read_text()
