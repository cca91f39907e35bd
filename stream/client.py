"""The client: messages of a running pipeline. Needs pyzmq and msgspec, nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import zmq
from zmq.utils.monitor import recv_monitor_message

from stream import StreamError
from stream.curve import ClientKeys, read_client_keys
from stream.messages import MAX_MESSAGE_BYTES, StatusMessage, TracksMessage, WireMessage, decode

BUFFER_BYTES = 64 * 1024  # small: the kernel's default would hold thousands of stale messages
QUEUE = 200  # messages; with their largest size, a bound on what a publisher can make us hold
POLL_MS = 100
REFUSED_AFTER_S = 1.0
REFUSED_TIMES = 3
NEWS = (
    zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_CONNECT_RETRIED
)


def set_up(socket: zmq.Socket[Any], keys: ClientKeys | None) -> None:
    """Bound what a subscriber's socket holds, and give it its keys; to be done before it connects."""
    socket.setsockopt(zmq.RCVBUF, BUFFER_BYTES)
    socket.setsockopt(zmq.RCVHWM, QUEUE)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    if keys:
        socket.curve_serverkey = keys.server
        socket.curve_publickey, socket.curve_secretkey = keys.own.public, keys.own.secret


class Subscription(Iterator[WireMessage]):
    """The messages of a pipeline as they come; connects again by itself when the pipeline comes back.

    Iterate over it; close it, or use it in a ``with`` statement, when done.

    Args:
        endpoint: where the pipeline publishes, such as ``tcp://127.0.0.1:5560``.
        kinds: of messages, of ``stream.messages.KINDS``.
        stream: only this stream's; None for all.
        timeout: end after so many seconds without a message; None never ends.
        server_key: the publisher's public key, as a file or its 40 characters; None for one without keys.
        key: the file of this client's secret key; goes with ``server_key``.

    Attributes:
        missed: frames whose message was published and did not come, by stream: numbers that were
            skipped and that no message that came counts as dropped, and of a stream that has ended
            those after the last that came. Counted from ``tracks`` messages.

    Raises:
        StreamError: if the endpoint or a key cannot be used; while iterating, if the publisher turns
            this client away or has other keys.
        ValueError: while iterating, if what comes is not of this version.
    """

    def __init__(
        self,
        endpoint: str,
        kinds: tuple[str, ...] = ("tracks",),
        stream: str | None = None,
        timeout: float | None = None,
        server_key: str | None = None,
        key: str | Path | None = None,
    ) -> None:
        keys = read_client_keys(server_key, key)
        port = endpoint.rpartition(":")[2] if endpoint.startswith("tcp://") else "1"
        if port.isdigit() and not 0 < int(port) < 1 << 16:  # ZeroMQ would take it, and wait for ever
            raise StreamError(f"{endpoint}: a port of 1 to 65535 is expected")
        self.endpoint, self.missed = endpoint, Counter[str]()
        self._stream, self._timeout, self._keys = stream, timeout, keys
        self._last: dict[str, TracksMessage] = {}
        self._kinds = kinds
        self._failed: list[float] = []
        self._gone: float | None = None  # when the connection was lost, until ZeroMQ tries again
        self._closed = self._stopped = False
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        set_up(self._socket, keys)
        self._news = self._socket.get_monitor_socket(NEWS)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError as error:
            self.close()
            raise StreamError(f"{endpoint}: {error.strerror}; tcp://HOST:PORT is expected") from None
        for kind in (*kinds, "status") if "tracks" in kinds else kinds:  # it says how many tracks there were
            self._socket.subscribe(f"{kind}/{stream}" if stream else f"{kind}/")
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._news, zmq.POLLIN)

    def __next__(self) -> WireMessage:
        last = time.monotonic()
        while not (self._closed or self._stopped) and (
            self._timeout is None or time.monotonic() - last < self._timeout
        ):
            ready = dict(self._poller.poll(POLL_MS))
            if self._news in ready:
                news = recv_monitor_message(self._news)
                self._hear(news["event"], news["value"])
            if self._socket not in ready:
                self._see_whether_gone()
                continue
            parts = self._socket.recv_multipart()
            if len(parts) != 2:
                raise ValueError(f"a message of {len(parts)} parts; a topic and a payload are expected")
            message = decode(parts[0].decode(errors="replace"), parts[1])
            if self._stream is None or message.stream == self._stream:  # a prefix may be another stream's name
                self._count(message)
                if "status" in self._kinds or not isinstance(message, StatusMessage):
                    return message
        self.close()
        raise StopIteration

    def _count(self, message: WireMessage) -> None:
        """Count what was skipped; a number that goes back is a pipeline that began again."""
        if isinstance(message, TracksMessage):
            last = self._last.get(message.stream)
            self._last[message.stream] = message
            if last and message.seq > last.seq:
                self.missed[message.stream] += max(0, message.seq - last.seq - 1 - sum(message.dropped.values()))
        elif isinstance(message, StatusMessage) and message.health == "ended":
            last = self._last.pop(message.stream, None)  # it may be said again
            if last and last.published:
                self.missed[message.stream] += max(0, message.frames - last.published)

    def _hear(self, event: int, value: int) -> None:
        """See how a handshake went.

        Raises:
            StreamError: if it will not go better next time.
        """
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self._failed = []
            return
        if event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CONNECT_RETRIED):
            self._gone = time.monotonic() if event == zmq.EVENT_DISCONNECTED else None
            return
        reason = ""
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            key = self._keys.own.public.decode() if self._keys else "none"
            reason = f"the publisher does not let this client in; its public key, {key}, is not on its list"
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            if value != zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
                reason = "what answers there is no publisher of irstream"
            elif self._keys:
                reason = "the publisher has no keys; leave out the server's key and the client's"
            else:
                reason = "the publisher asks for keys; give the server's public key and this client's secret key"
        elif self._keys:  # hung up without a word: once, it may have been stopped just then
            now = time.monotonic()
            self._failed.append(now)
            if len(self._failed) >= REFUSED_TIMES and now - self._failed[0] >= REFUSED_AFTER_S:
                reason = "the publisher hangs up; the server's key given here is not its own"
        if reason:
            self._give_up(reason)

    def _see_whether_gone(self) -> None:
        """Give up on a publisher that ZeroMQ hung up on and does not call again: it sent what breaks the protocol."""
        if self._gone and time.monotonic() - self._gone > REFUSED_AFTER_S:
            self._give_up(f"the publisher sent what is no message, or one of more than {MAX_MESSAGE_BYTES} bytes")

    def _give_up(self, reason: str) -> NoReturn:
        self.close()
        raise StreamError(f"{self.endpoint}: {reason}")

    def stop(self) -> None:
        """Let the iteration end after the message at hand; a signal's handler may call it, and no message is lost."""
        self._stopped = True

    def close(self) -> None:
        """Close; an iteration ends."""
        if not self._closed:
            self._closed = True
            self._socket.disable_monitor()
            self._news.close(linger=0)
            self._socket.close(linger=0)
            self._context.term()

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_news"):
            self.close()


subscribe = Subscription  # for message in subscribe("tcp://127.0.0.1:5560"): ...
