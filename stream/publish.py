"""The publisher: messages to whoever subscribes, over ZeroMQ."""

from __future__ import annotations

import socket
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from stream import StreamError
from stream.curve import AllowedClients, ServerCurve, allowed, check_exposure, read_pair

if TYPE_CHECKING:
    from zmq.auth.thread import ThreadAuthenticator

LIVE_QUEUE = 200  # messages a subscriber may lag behind before live ones are dropped for it
BUFFER_BYTES = 64 * 1024  # small: the kernel's default would hold thousands of stale messages
HEARTBEAT_MS = 2_000
DEAD_AFTER_MS = 10_000
TRACKS = "tracks/"
LINGER_MS = 10_000  # at the end, for subscribers to take what is left
NEWS_AT_ONCE = 64  # of subscribers, that a message waits for
MOST_TOPICS = 1024  # that are known to be wanted; of more, what is made on demand is not made
NEWS_BYTES = 1024  # all that a subscriber may say: the topic it wants or no longer wants


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
            missing messages (right for live streams). One that is dead is let go.
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
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.XPUB)
        self._socket.setsockopt(zmq.XPUB_VERBOSER, 1)
        self._socket.setsockopt(zmq.XPUB_NODROP, int(lossless))
        self._socket.setsockopt(zmq.SNDHWM, LIVE_QUEUE)
        self._socket.setsockopt(zmq.SNDBUF, BUFFER_BYTES)
        self._socket.setsockopt(zmq.MAXMSGSIZE, NEWS_BYTES)
        self._socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
        self._socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, DEAD_AFTER_MS)
        self._socket.setsockopt(zmq.LINGER, LINGER_MS)
        self._subscribed: Counter[str] = Counter()  # by prefix of a topic
        self._gate: ThreadAuthenticator | None = None
        try:
            if curve and pair:
                self._gate = _let_in_only(self._context, curve.clients, pair.public)
                self._socket.curve_server = True
                self._socket.curve_publickey, self._socket.curve_secretkey = pair.public, pair.secret
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._socket.close(linger=0)
            self.close()
            reason = str(error.strerror).partition(" (addr=")[0]  # it names the endpoint, as we do
            raise StreamError(f"publish.endpoint {endpoint}: {reason}; choose another with --publish") from None

    def send(self, topic: str, payload: bytes) -> None:
        """Publish a message."""
        self._listen()
        self._socket.send_multipart((topic.encode(), payload), copy=False)

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
            if not self._socket.poll(0):
                return
            self._enter(self._socket.recv())

    def _enter(self, news: bytes) -> None:
        topic = news[1:].decode(errors="replace")
        if news[:1] == b"\x01" and (topic in self._subscribed or len(self._subscribed) < MOST_TOPICS):
            self._subscribed[topic] += 1
        elif news[:1] == b"\x00" and topic in self._subscribed:
            self._subscribed[topic] -= 1
            if not self._subscribed[topic]:
                del self._subscribed[topic]

    def close(self) -> None:
        """Close, once the subscribers have what was sent."""
        self._socket.close()
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
