"""Publisher and client, over a real socket."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from stream import StreamError
from stream.client import set_up, subscribe
from stream.messages import StatusMessage, TracksMessage, encode
from stream.publish import MOST_TOPICS, Publisher
from stream.subscribe import describe


def tracks(stream: str, seq: int) -> TracksMessage:
    return TracksMessage(
        stream=stream, seq=seq, captured_utc_ns=0, captured_ns=0, published_ns=2_500_000, width=320, height=256,
        dropped={"superseded": 2} if seq else {}, stages={}, tracks=[],
    )  # fmt: skip


@pytest.fixture
def publisher(endpoint: str) -> Iterator[Publisher]:
    publisher = Publisher(endpoint, lossless=True)
    yield publisher
    publisher.close()


def test_nothing_is_missed_once_the_publisher_has_waited_for_its_subscriber(endpoint: str) -> None:
    publisher = Publisher(endpoint, lossless=True)
    got: list[int] = []

    def listen() -> None:
        for message in subscribe(endpoint, timeout=5):
            assert isinstance(message, TracksMessage)
            got.append(message.seq)
            if message.seq == 999:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    publisher.wait_for(1)
    for seq in range(1000):
        publisher.send(*encode(tracks("sky", seq)))
    publisher.close()
    listener.join(timeout=10)
    assert got == list(range(1000))


def test_a_subscriber_that_does_not_read_for_long_is_waited_for_and_gets_all(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of what drops nothing: while messages are sent, and at the end. Nobody hangs up on it within 13 seconds."""
    monkeypatch.setattr("stream.publish.LINGER_MS", 100)
    context = zmq.Context()
    slow = context.socket(zmq.SUB)
    set_up(slow, None)
    news = slow.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    slow.connect(endpoint)
    slow.subscribe("tracks/")
    publisher = Publisher(endpoint, lossless=True)

    def send() -> None:
        publisher.wait_for(1)
        for number in range(1000):
            publisher.send("tracks/sky", number.to_bytes(2) * 5_000)
        sent.set()
        publisher.close()

    sent = threading.Event()
    sender = threading.Thread(target=send)
    sender.start()
    assert not news.poll(13_000)
    assert not sent.is_set()
    got: list[int] = []
    while not sent.wait(0.002):  # slower than what is sent, so that all queues stay full
        got.append(int.from_bytes(slow.recv_multipart()[1][:2]))
    assert not news.poll(1_000)
    assert sender.is_alive()
    while slow.poll(10_000 if len(got) < 1000 else 0):
        got.append(int.from_bytes(slow.recv_multipart()[1][:2]))
    sender.join(timeout=10)
    assert got == list(range(1000))
    slow.disable_monitor()
    news.close(linger=0)
    slow.close(linger=0)
    context.term()


def test_a_stream_whose_name_begins_another_gets_its_own_messages_alone(endpoint: str, publisher: Publisher) -> None:
    got: list[str] = []

    def listen() -> None:
        for message in subscribe(endpoint, stream="sky", timeout=5):
            got.append(message.stream)
            if len(got) == 2:
                return

    listener = threading.Thread(target=listen)
    listener.start()
    publisher.wait_for(1)
    for stream in ("sky", "sky2", "sky"):
        publisher.send(*encode(tracks(stream, 0)))
    listener.join(timeout=10)
    assert got == ["sky", "sky"]


def test_silence_ends_a_subscription_that_has_a_timeout(endpoint: str) -> None:
    assert list(subscribe(endpoint, timeout=0.2)) == []


def test_a_port_that_is_taken_is_named(endpoint: str, publisher: Publisher) -> None:
    with pytest.raises(StreamError, match=f"{endpoint}: Address already in use"):
        Publisher(endpoint, lossless=False)


def test_an_endpoint_that_is_none_is_named() -> None:
    with pytest.raises(StreamError, match="nowhere"):
        list(subscribe("nowhere", timeout=1))


def test_the_client_prints_a_line_a_message(endpoint: str, publisher: Publisher) -> None:
    client = subprocess.Popen(
        [sys.executable, "-m", "stream.subscribe", endpoint, "--kind", "status", "--count", "1", "--json"],
        stdout=subprocess.PIPE,
        text=True,
    )
    # Tracks are not asked for, so wait_for() would not see this subscriber; send until it has one.
    status = StatusMessage(stream="sky", health="ok", frames=3, fps=30, dropped={}, latency_ms={}, tracks=0)
    done = threading.Event()

    def send() -> None:
        while not done.wait(0.05):
            publisher.send(*encode(status))

    sender = threading.Thread(target=send)
    sender.start()
    out, _ = client.communicate(timeout=30)
    done.set()
    sender.join()
    assert json.loads(out)["frames"] == 3


def test_a_line_for_people_says_how_late_the_answer_is_and_what_was_dropped() -> None:
    line = describe(tracks("sky", 7))
    assert line.startswith("sky 7 2.5 ms")
    assert "2 dropped: superseded" in line


def test_what_nobody_wants_need_not_be_made(endpoint: str, publisher: Publisher) -> None:
    """The publisher knows its subscriptions by prefix, and forgets them with their subscribers."""

    def settles(wanted: bool) -> bool:
        end = time.monotonic() + 5
        while publisher.wants("detections/sky") is not wanted and time.monotonic() < end:
            time.sleep(0.01)
        return publisher.wants("detections/sky") is wanted

    assert not publisher.wants("detections/sky")
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.connect(endpoint)
    socket.subscribe("detections/")
    assert settles(True)
    assert not publisher.wants("truth/sky")
    socket.close(linger=0)
    assert settles(False)
    context.term()


FLOODS = {
    "subscribes": "b'\\x01' + os.urandom(70)",
    "subscribes and says that it does not": "bytes([number % 2]) + os.urandom(70)",
    "asks for much at once": "b'\\x01' + os.urandom(1000)",
    "talks": "b'x' + os.urandom(70)",
}


@pytest.mark.parametrize("news", FLOODS.values(), ids=[name.replace(" ", "-") for name in FLOODS])
def test_a_subscriber_that_floods_the_publisher_neither_fills_its_memory_nor_stops_it(
    news: str, endpoint: str, publisher: Publisher
) -> None:
    """Three seconds of it, as fast as it can, from another process; another subscriber gets what comes then."""
    flood = (
        "import itertools, os, zmq\n"
        "socket = zmq.Context().socket(zmq.XSUB)\n"
        f"socket.connect({endpoint!r})\n"
        f"for number in itertools.count(): socket.send({news})\n"
    )
    publisher.send("status/sky", b"")
    before = memory_mb()
    longest, end = 0.0, time.monotonic() + 5
    with subprocess.Popen([sys.executable, "-c", flood]) as flooder:
        while (now := time.monotonic()) < end:
            publisher.send("status/sky", b"")
            longest = max(longest, time.monotonic() - now)
            time.sleep(0.01)
        flooder.kill()
    assert memory_mb() - before < 100
    assert longest < 1
    # It reads meanwhile: the rest of the flood may have it connect again, and ZeroMQ asks anew when it is read from.
    with subscribe(endpoint, timeout=20) as messages, ThreadPoolExecutor(1) as reader:
        got = reader.submit(next, messages)
        deadline = time.monotonic() + 20
        while not publisher.wants("tracks/sky"):
            assert time.monotonic() < deadline
        publisher.send(*encode(tracks("sky", 0)))
        assert got.result() == tracks("sky", 0)


def memory_mb() -> float:
    return int(Path("/proc/self/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


def test_who_asks_for_too_many_topics_costs_the_others_a_new_connection_alone(
    endpoint: str, publisher: Publisher
) -> None:
    context = zmq.Context()
    greedy = context.socket(zmq.SUB)
    greedy.sndhwm = 0  # else it asks for a thousand
    greedy.connect(endpoint)
    with subscribe(endpoint, timeout=20) as messages:
        publisher.wait_for(1)
        for number in range(MOST_TOPICS + 1):
            greedy.subscribe(f"detections/{number}")
        end = time.monotonic() + 30
        while not publisher._said_flooded:
            publisher.wants("truth/sky")
            assert time.monotonic() < end
        greedy.close(linger=0)
        got: list[object] = []
        listener = threading.Thread(target=lambda: got.append(next(messages)))
        listener.start()
        while listener.is_alive():
            publisher.send(*encode(tracks("sky", 0)))
            listener.join(timeout=0.01)
            assert time.monotonic() < end
        assert got == [tracks("sky", 0)]
    context.term()


@pytest.mark.parametrize(
    ("endpoint", "timeout", "code", "says"),
    [
        ("tcp://127.0.0.1:99999", "1", 2, "tcp://127.0.0.1:99999: a port of 1 to 65535 is expected"),
        ("tcp://127.0.0.1:5560", "nan", 2, "--timeout nan: seconds, more than 0"),
        ("tcp://127.0.0.1:5560", "-2", 2, "--timeout -2: seconds, more than 0"),
        ("tcp://127.0.0.1:1", "0.5", 1, "tcp://127.0.0.1:1: no message came in 0.5 s"),
    ],
)
def test_a_subscriber_that_can_get_nothing_says_so(endpoint: str, timeout: str, code: int, says: str) -> None:
    command = [sys.executable, "-m", "stream.subscribe", endpoint, "--timeout", timeout]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
