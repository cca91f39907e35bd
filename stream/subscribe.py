"""Print the messages of a running pipeline: ``python -m stream.subscribe ENDPOINT``."""

from __future__ import annotations

import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec

try:
    import typer
except ModuleNotFoundError:  # the client alone goes without
    print("error: this command needs typer: pip install './client[cli]'", file=sys.stderr)
    raise SystemExit(2) from None

from engine.asides import fail
from engine.one_line import run_command
from stream import StreamError
from stream.client import Subscription, subscribe
from stream.messages import KINDS, DetectionsMessage, StatusMessage, TracksMessage, TruthMessage, WireMessage

ServerKey = Annotated[
    str | None, typer.Option(help="The publisher's public key, NAME.key or its 40 characters.", metavar="KEY")
]
Key = Annotated[
    Path | None, typer.Option(help="Your secret key, NAME.key_secret; goes with --server-key.", metavar="FILE")
]


def describe(message: WireMessage) -> str:
    """Return a message as one line for people, without what a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in _line(message))


def _line(message: WireMessage) -> str:
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
            p50, p99 = (message.latency_ms.get(name, float("nan")) for name in ("p50", "p99"))
            return (
                f"{message.stream} {message.health}: {message.fps:.1f} frames/s, {message.frames} published, "
                f"{sum(message.dropped.values())} dropped, p50 {p50:.1f} ms, p99 {p99:.1f} ms"
            )


@dataclass
class Tally:
    """How many messages of tracks of a stream came, and how old they were: from capture until they came here.

    Ages go by the clocks of both hosts, UTC.
    """

    messages: int = 0
    sum_ms: float = 0.0
    most_ms: float = 0.0

    def add(self, message: TracksMessage, now_utc_ns: int) -> None:
        """Count a message that came at ``now_utc_ns``."""
        age_ms = (now_utc_ns - message.captured_utc_ns) / 1e6
        self.messages, self.sum_ms, self.most_ms = self.messages + 1, self.sum_ms + age_ms, max(self.most_ms, age_ms)


def _print_messages(messages: Subscription, tallies: dict[str, Tally], count: int | None, as_json: bool) -> int:
    """Print messages until there are no more or enough; return how many."""
    number = 0
    for number, message in enumerate(messages, 1):
        if isinstance(message, TracksMessage):
            tallies.setdefault(message.stream, Tally()).add(message, time.time_ns())
        print(msgspec.json.encode(message).decode() if as_json else describe(message), flush=True)
        if number == count:
            break
    return number


def main(
    endpoint: Annotated[str, typer.Argument(help="Where the pipeline publishes: tcp://HOST:PORT.", metavar="ENDPOINT")],
    kind: Annotated[list[str] | None, typer.Option(help=f"{', '.join(KINDS)}; repeatable.", metavar="KIND")] = None,
    stream: Annotated[str | None, typer.Option(help="Only this stream.", metavar="NAME")] = None,
    timeout: Annotated[float | None, typer.Option(help="End after so many seconds without a message.")] = None,
    count: Annotated[int | None, typer.Option(help="End after so many messages.", min=1)] = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    server_key: ServerKey = None,
    key: Key = None,
) -> None:
    """Print the messages of a running pipeline, one a line.

    Waits for a pipeline that is not there yet, and for one that comes back.
    Ends with a line a stream on standard error: messages that came, that were
    missed, and their age. Exits with 0; with 2 if something given to it cannot
    be used or the publisher does not let it in; with 1 if --timeout was over
    before the first message.
    """
    kinds = tuple(kind or ["tracks"])
    try:
        if unknown := set(kinds) - set(KINDS):
            raise StreamError(f"--kind {unknown.pop()}: one of {', '.join(KINDS)} is expected")
        if timeout is not None and not 0 < timeout < float("inf"):
            raise StreamError(f"--timeout {timeout:g}: seconds, more than 0, are expected")
        with subscribe(endpoint, kinds, stream, timeout, server_key, key) as messages:
            tallies: dict[str, Tally] = {}
            stopped = False

            def stop(number: int, _: object) -> None:
                nonlocal stopped
                stopped = True
                messages.stop()
                signal.signal(
                    number, signal.default_int_handler
                )  # where printing is blocked, the second Ctrl-C ends it

            for number in (signal.SIGINT, signal.SIGTERM):  # what was counted is printed
                signal.signal(number, stop)
            try:
                came = _print_messages(messages, tallies, count, json)
            finally:
                for name, tally in tallies.items():
                    ages = f"age {tally.sum_ms / tally.messages:.1f} ms on average, {tally.most_ms:.1f} ms at most"
                    said = f"{name}: {tally.messages} messages, {messages.missed[name]} missed; {ages}"
                    print("".join(c if c.isprintable() else "?" for c in said), file=sys.stderr)
        if not came and not stopped:
            fail(f"{endpoint}: no message came in {timeout:g} s; is a pipeline publishing there?")
            raise SystemExit(1)
    except (StreamError, ValueError) as error:  # a message of another version is a ValueError
        fail(str(error))
        raise SystemExit(2) from None
    except (KeyboardInterrupt, BrokenPipeError):
        pass


if __name__ == "__main__":
    run_command(main)
