"""The server: one page, its WebSocket, the metrics and the health."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgspec
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp
from starlette.websockets import WebSocket, WebSocketDisconnect

from stream.curve import ClientKeys
from stream.metrics import Metrics
from stream.web.address import Listener
from stream.web.feed import Feed, StreamState
from stream.web.guard import Guard
from stream.web.viewer import Viewer

STATIC = Path(__file__).parent / "static"
TICK_S = 1.0
START_S = 120.0  # how long a pipeline may take to say a first word
MAX_VIEWERS = 32


class Server:
    """What all requests share.

    Args:
        endpoint: where the pipeline publishes.
        keys: where it asks for them.
    """

    def __init__(self, endpoint: str, keys: ClientKeys | None) -> None:
        self.metrics = Metrics()
        self.feed = Feed(endpoint, keys, self.metrics, self._frame)
        self.viewers: set[Viewer] = set()

    def app(self, page: bool) -> ASGIApp:
        """Return the application: the live view with it, or the metrics and the health alone."""
        routes: list[BaseRoute] = [
            Route("/metrics", self._metrics),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
        ]
        if page:
            routes += [
                Route("/", self._page),
                WebSocketRoute("/live", self._live),
                Mount("/static", StaticFiles(directory=STATIC)),
            ]
        return Starlette(routes=routes)

    async def run(self) -> None:
        """Listen to the pipeline for ever, and tell the browsers once a second how it is."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.feed.run())
            while True:
                await asyncio.sleep(TICK_S)
                self.feed.tick()
                if self.viewers:
                    text = msgspec.json.encode(self.feed.describe()).decode()
                    for viewer in self.viewers:
                        viewer.say(text)

    def _frame(self, state: StreamState) -> None:
        for viewer in self.viewers:
            viewer.offer(state)

    async def _page(self, _request: Request) -> Response:
        return FileResponse(STATIC / "index.html")

    async def _metrics(self, _request: Request) -> Response:
        return Response(self.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})

    async def _healthz(self, _request: Request) -> Response:
        young = time.monotonic() - self.feed.started < START_S
        well = not self.feed.away or (young and not self.feed.streams)
        return PlainTextResponse("ok\n" if well else "nothing heard of the pipeline\n", 200 if well else 503)

    async def _readyz(self, _request: Request) -> Response:
        streams = {state.name: state.health() for state in self.feed.streams.values()}
        ready = bool(streams) and all(health == "ok" for health in streams.values())
        return JSONResponse({"ready": ready, "streams": streams}, 200 if ready else 503)

    async def _live(self, websocket: WebSocket) -> None:
        await websocket.accept()
        if len(self.viewers) >= MAX_VIEWERS:
            await websocket.close(1013, f"{MAX_VIEWERS} browsers look on already")
            return
        viewer = Viewer()
        viewer.say(msgspec.json.encode({"kind": "history", "streams": self.feed.history()}).decode())
        viewer.say(msgspec.json.encode(self.feed.describe()).decode())
        self.viewers.add(viewer)
        sending = asyncio.create_task(viewer.serve(websocket))
        try:
            while True:
                viewer.wish(await websocket.receive_text())
                for name in viewer.watch:  # the last frame, where no other comes
                    if state := self.feed.streams.get(name):
                        viewer.offer(state)
        except (WebSocketDisconnect, ConnectionError):
            pass
        except (ValueError, KeyError):
            await websocket.close(1007, "not understood")
        finally:
            self.viewers.discard(viewer)
            sending.cancel()


def serve(endpoint: str, keys: ClientKeys | None, pages: Sequence[Listener], metrics: Sequence[Listener]) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        endpoint: where the pipeline publishes.
        keys: where it asks for them.
        pages: where to serve the live view, the metrics and the health.
        metrics: where to serve the metrics and the health alone.
    """
    cv2.setNumThreads(1)
    asyncio.run(_serve(Server(endpoint, keys), [(each, True) for each in pages] + [(each, False) for each in metrics]))


async def _serve(server: Server, listeners: Sequence[tuple[Listener, bool]]) -> None:
    running = asyncio.create_task(server.run())
    try:
        await asyncio.gather(*(_web(server.app(page), listener) for listener, page in listeners))
    finally:
        running.cancel()


async def _web(app: ASGIApp, listener: Listener) -> None:
    config = uvicorn.Config(
        Guard(app, listener.token), log_level="warning", access_log=False, lifespan="off", server_header=False,
        ws_max_size=1 << 16, ws_per_message_deflate=False, timeout_graceful_shutdown=1,
    )  # fmt: skip
    await uvicorn.Server(config).serve(sockets=[listener.socket])
