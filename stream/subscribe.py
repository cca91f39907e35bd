"""The client: messages of a running pipeline, as a library and as ``python -m stream.subscribe ENDPOINT``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Annotated

import msgspec
import typer
import zmq

from stream import StreamError
from stream.messages import KINDS, DetectionsMessage, StatusMessage, TracksMessage, TruthMessage, WireMessage, decode

BUFFER_BYTES = 64 * 1024  # small: the kernel's default would hold thousands of stale messages
POLL_MS = 100


def subscribe(
    endpoint: str, kinds: tuple[str, ...] = ("tracks",), stream: str | None = None, timeout: float | None = None
) -> Iterator[WireMessage]:
    """Yield the messages of a pipeline as they come; connects again by itself when it comes back.

    Args:
        endpoint: where it publishes, such as ``tcp://127.0.0.1:5560``.
        kinds: of messages, of ``KINDS``.
        stream: only this stream's; None for all.
        timeout: end after so many seconds without a message; None never ends.

    Raises:
        StreamError: if the endpoint cannot be used.
        ValueError: if what it publishes is not this version's.
    """
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.setsockopt(zmq.RCVBUF, BUFFER_BYTES)
    socket.setsockopt(zmq.RECONNECT_IVL, 100)
    try:
        socket.connect(endpoint)
        for kind in kinds:
            socket.subscribe(f"{kind}/{stream}" if stream else f"{kind}/")
        last = time.monotonic()
        while timeout is None or time.monotonic() - last < timeout:
            if socket.poll(POLL_MS):
                topic, payload = socket.recv_multipart()
                message = decode(topic.decode(), payload)
                if stream is None or message.stream == stream:  # a topic's prefix may be another stream's name
                    yield message
                last = time.monotonic()
    except zmq.ZMQError as error:
        raise StreamError(f"{endpoint}: {error.strerror}; tcp://HOST:PORT is expected") from None
    finally:
        socket.close(linger=0)
        context.term()


def describe(message: WireMessage) -> str:
    """Return a message as one line for people."""
    match message:
        case TracksMessage():
            late = (message.published_ns - message.captured_ns) / 1e6
            tracks = "  ".join(
                f"#{t.id} {t.state} ({t.x:.1f}, {t.y:.1f}) {t.vx:+.1f} {t.vy:+.1f} px/s"
                for t in message.tracks
                if t.state != "tentative"
            )
            drops = "".join(f"  [{count} dropped: {reason}]" for reason, count in message.dropped.items())
            return f"{message.stream} {message.seq} {late:.1f} ms{drops}  {tracks or 'no track'}"
        case DetectionsMessage():
            found = "  ".join(f"({d.x:.1f}, {d.y:.1f}) {d.score:.2f}" for d in message.detections)
            return f"{message.stream} {message.seq} detections  {found or 'none'}"
        case TruthMessage():
            targets = "  ".join(f"#{t.id} ({t.x:.1f}, {t.y:.1f})" for t in message.targets)
            return f"{message.stream} {message.seq} truth  {targets or 'no target'}"
        case StatusMessage():
            latency = message.latency_ms
            return (
                f"{message.stream} {message.health}: {message.fps:.1f} frames/s, {message.frames} published, "
                f"{sum(message.dropped.values())} dropped, p50 {latency['p50']:.1f} ms, p99 {latency['p99']:.1f} ms"
            )


def main(
    endpoint: Annotated[str, typer.Argument(help="Where the pipeline publishes: tcp://HOST:PORT.")],
    kind: Annotated[list[str] | None, typer.Option(help=f"{', '.join(KINDS)}; repeatable.")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    timeout: Annotated[float | None, typer.Option(help="End after so many seconds without a message.")] = None,
    count: Annotated[int | None, typer.Option(help="End after so many messages.", min=1)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Print the messages of a running pipeline, one a line."""
    kinds = tuple(kind or ["tracks"])
    if unknown := set(kinds) - set(KINDS):
        print(f"error: --kind {unknown.pop()}: one of {', '.join(KINDS)} is expected", file=sys.stderr)
        raise SystemExit(2)
    try:
        for number, message in enumerate(subscribe(endpoint, kinds, stream, timeout), 1):
            print(msgspec.json.encode(message).decode() if json else describe(message), flush=True)
            if number == count:
                break
    except (StreamError, ValueError) as error:  # a message of another version is a ValueError
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, BrokenPipeError):
        pass


if __name__ == "__main__":
    typer.run(main)
