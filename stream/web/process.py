"""The server beside a run of the pipeline: a process of its own, whose end is nobody's end."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait

from stream.config import Config
from stream.curve import ClientKeys, read_pair
from stream.frame import Ready, send
from stream.web.address import Listener, listen
from stream.web.feed import connectable
from stream.workers import work

START_S = 20.0
LOWER_PRIORITY = 10  # whoever looks on comes after the pipeline
LOOK_S = 0.5  # how often we look whether it is stopped
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before a server that died is started again; doubled each time

Arguments = tuple[str, ClientKeys | None, list[Listener], list[Listener]]

_context = multiprocessing.get_context("spawn")


@contextmanager
def serving(config: Config, say: Callable[[str], None]) -> Iterator[None]:
    """Serve what a configuration asks for, a view, metrics, both or nothing, while the pipeline runs.

    Args:
        config: of the run.
        say: told where it serves.

    Raises:
        StreamError: if an address cannot be had.
    """
    pages = [listen("--view", config.view)] if config.view else []
    metrics = [listen("--metrics", config.metrics)] if config.metrics and config.metrics != config.view else []
    for what, listeners in (("live view", pages), ("metrics", metrics)):
        for listener in listeners:
            say(f"{what}: {listener.url}")
    if not pages and not metrics:
        yield
        return
    pair = read_pair(config.publish.key) if config.publish.key else None  # the publisher's own: it lets itself in
    keys = ClientKeys(pair.public, pair) if pair else None
    over, end = _context.Pipe(duplex=False)
    ready = threading.Event()
    keeper = threading.Thread(
        target=_keep,
        args=(over, ready, (connectable(config.publish.endpoint), keys, pages, metrics)),
        name="web",
        daemon=True,
    )
    keeper.start()
    try:
        ready.wait(START_S)  # it loads its libraries before the first frame, not beside it
        yield
    finally:
        end.close()
        keeper.join()
        for listener in pages + metrics:
            listener.socket.close()


def _keep(over: Connection, ready: threading.Event, arguments: Arguments) -> None:
    """Run the server; start it again if it dies or is stopped, until the run is over."""
    from stream.processes import deaf_to_stops  # the pipeline's, which the server's own process need not load

    with deaf_to_stops():
        _keep_serving(over, ready, arguments)


def _keep_serving(over: Connection, ready: threading.Event, arguments: Arguments) -> None:
    from stream.processes import is_stopped

    pause = PAUSE_S
    while True:
        reports, sender = _context.Pipe(duplex=False)
        process = _context.Process(target=_main, args=(os.getpid(), sender, arguments), name="web", daemon=True)
        process.start()
        sender.close()
        wait([process.sentinel, over, reports])
        ready.set()
        stopped = 0
        while not (ended := wait([process.sentinel, over], LOOK_S)) and stopped < 2:
            stopped = stopped + 1 if is_stopped(process.pid) else 0
        process.kill()
        process.join()
        reports.close()
        if over in ended or over.poll(pause):
            return
        pause = min(2 * pause, LONGEST_PAUSE_S)


def _main(supervisor: int, reports: Connection, arguments: Arguments) -> None:
    os.nice(LOWER_PRIORITY)
    work(_serve, "web", reports, supervisor, arguments)


def _serve(
    endpoint: str, keys: ClientKeys | None, pages: list[Listener], metrics: list[Listener], reports: Connection
) -> None:
    from stream.web.server import serve  # its libraries are the server's alone

    send(reports, Ready())
    serve(endpoint, keys, pages, metrics)
