"""The publisher: messages to whoever subscribes, over ZeroMQ."""

from __future__ import annotations

import socket
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from engine.asides import warn
from stream import StreamError
from stream.curve import AllowedClients, ServerCurve, allowed, check_exposure, read_pair

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

LIVE_QUEUE = 200  # messages a subscriber may lag behind before live ones are dropped for it
BUFFER_BYTES = 64 * 1024  # small: the kernel's default would hold thousands of stale messages
KEEPALIVE_S = (30, 10, 6)  # TCP's: of silence before it asks, between questions, and questions without an answer
SLOW_MS = 10_000  # that a message waits for a subscriber before it is said
TRACKS = "tracks/"
LINGER_MS = 10_000  # at the end of a live run, for subscribers to take what is left; else, as long as they take
NEWS_AT_ONCE = 64  # of subscribers, that a message waits for
NEWS_BYTES = 128  # all that a subscriber may say: the topic it wants or no longer wants
NEWS_BYTES_CURVE = 512  # the same with keys, whose handshake has messages of 300
MOST_TOPICS = 4096  # ever asked for: ZeroMQ keeps some 5 kB for each; beyond, all subscribers have to come again
BIND_S = 5.0  # how long the port of a socket that was just closed may take to become free


def free_endpoint() -> str:
    """Return an endpoint on loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{probe.getsockname()[1]}"


class Publisher:
    """A bound XPUB socket.

    Args:
        endpoint: where to bind, as ``tcp://HOST:PORT`` or ``ipc://PATH``.
        lossless: make a slow subscriber slow the pipeline down (right for files) instead of
            missing messages (right for live streams). It is waited for as long as its host answers, at the
            end as well; the first time that takes long, a line says so.
        curve: the keys of those that may listen; None lets anyone.
        insecure: allow an endpoint that other machines can reach without ``curve``.

    Raises:
        StreamError: if the endpoint cannot be bound or a key cannot be used.
    """

    def __init__(self, endpoint: str, lossless: bool, curve: ServerCurve | None = None, insecure: bool = False) -> None:
        try:
            check_exposure(endpoint, curve is not None, insecure)
        except ValueError as error:
            raise StreamError(f"publish.endpoint: {error}") from None
        pair = read_pair(curve.key) if curve else None
        if curve:
            allowed(curve.clients)  # a list that cannot be read is said now, not to the first client
        self.endpoint, self._lossless, self._pair = endpoint, lossless, pair
        self._said_slow = self._said_flooded = False
        self._subscribed: Counter[str] = Counter()  # by prefix of a topic
        self._asked_for: set[bytes] = set()  # since the socket was opened, such as are no longer wanted too
        self._gate: ThreadAuthenticator | None = None
        self._context = zmq.Context()
        try:
            if curve and pair:
                self._gate = _let_in_only(self._context, curve.clients, pair.public)
            self._socket = self._open()
        except zmq.ZMQError as error:
            self._stop()
            reason = str(error.strerror).partition(" (addr=")[0]  # it names the endpoint, as we do
            raise StreamError(f"publish.endpoint {endpoint}: {reason}; choose another with --publish") from None

    def _open(self) -> zmq.Socket[bytes]:
        publisher = self._context.socket(zmq.XPUB)
        publisher.setsockopt(zmq.XPUB_VERBOSER, 1)
        publisher.setsockopt(zmq.XPUB_NODROP, int(self._lossless))
        publisher.setsockopt(zmq.SNDHWM, LIVE_QUEUE)
        publisher.setsockopt(zmq.SNDBUF, BUFFER_BYTES)
        # Two pieces of news at a time (with 1, handshakes with keys stall): ZeroMQ takes in all that is there before it
        # sends, and keeps it without a bound.
        publisher.setsockopt(zmq.RCVHWM, 2)
        publisher.setsockopt(zmq.MAXMSGSIZE, NEWS_BYTES_CURVE if self._pair else NEWS_BYTES)
        # Not ZeroMQ's heartbeats: they wait in the same queue, and would have us hang up on whoever reads slowly.
        options = (zmq.TCP_KEEPALIVE_IDLE, zmq.TCP_KEEPALIVE_INTVL, zmq.TCP_KEEPALIVE_CNT)
        for option, value in ((zmq.TCP_KEEPALIVE, 1), *zip(options, KEEPALIVE_S, strict=True)):
            publisher.setsockopt(option, value)
        publisher.setsockopt(zmq.SNDTIMEO, SLOW_MS)
        publisher.setsockopt(zmq.LINGER, -1 if self._lossless else LINGER_MS)
        if self._pair:
            publisher.curve_server = True
            publisher.curve_publickey, publisher.curve_secretkey = self._pair.public, self._pair.secret
        try:
            publisher.bind(self.endpoint)
        except zmq.ZMQError:
            publisher.close(linger=0)
            raise
        return publisher

    def send(self, topic: str, payload: bytes) -> None:
        """Publish a message."""
        self._listen()
        while True:
            try:
                self._socket.send_multipart((topic.encode(), payload), copy=False)
            except zmq.Again:  # of one that is lossless
                if not self._said_slow:
                    self._said_slow = True
                    warn(f"{self.endpoint}: a subscriber reads slowly or not at all; the run waits for it")
            else:
                return

    def wants(self, topic: str) -> bool:
        """Tell whether someone subscribes to a topic, so that what nobody wants need not be made."""
        self._listen()
        return any(topic.startswith(prefix) for prefix in self._subscribed)

    def wait_for(self, subscribers: int) -> None:
        """Wait until so many subscriptions to tracks have come."""
        while self._to_tracks() < subscribers:
            self._enter(self._socket.recv())

    def _to_tracks(self) -> int:
        return sum(n for topic, n in self._subscribed.items() if topic.startswith(TRACKS) or TRACKS.startswith(topic))

    def _listen(self) -> None:
        """Take in the news of subscribers; of those that say much, some now and the rest later."""
        for _ in range(NEWS_AT_ONCE):
            try:
                news = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._enter(news)

    def _enter(self, news: bytes) -> None:
        topic = news[1:].decode(errors="replace")
        if news[:1] == b"\x01":
            self._subscribed[topic] += 1
            self._asked_for.add(news)
            if len(self._asked_for) > MOST_TOPICS:
                self._open_again()
        elif news[:1] == b"\x00" and topic in self._subscribed:
            self._subscribed[topic] -= 1
            if not self._subscribed[topic]:
                del self._subscribed[topic]

    def _open_again(self) -> None:
        """Let all subscribers go, who come again: ZeroMQ forgets what they wanted in no other way."""
        if not self._said_flooded:
            self._said_flooded = True
            warn(
                f"{self.endpoint}: more than {MOST_TOPICS} topics were asked for; all subscribers have to connect again"
            )
        self._socket.close(linger=0)
        self._subscribed.clear()
        self._asked_for.clear()
        deadline = time.monotonic() + BIND_S
        while True:
            try:
                self._socket = self._open()
            except zmq.ZMQError as error:
                if time.monotonic() > deadline:
                    raise StreamError(f"publish.endpoint {self.endpoint}: {error.strerror}") from None
                time.sleep(0.001)
            else:
                return

    def close(self) -> None:
        """Close, once the subscribers have what was sent."""
        self._socket.close()
        self._stop()

    def _stop(self) -> None:
        if self._gate:
            self._gate.stop()
        self._context.term()


def _let_in_only(context: zmq.Context[zmq.Socket[bytes]], clients: Path, own: bytes) -> ThreadAuthenticator:
    """Start the thread that ZeroMQ asks about every client; it must be there before the socket is bound."""
    from zmq.auth.thread import ThreadAuthenticator

    gate = ThreadAuthenticator(context)
    gate.start()
    gate.configure_curve_callback("*", AllowedClients(clients, own))
    return gate


def monotonic_to_utc_ns() -> int:
    """Return what to add to a monotonic time to get UTC, ns since 1970."""
    return time.time_ns() - time.monotonic_ns()
