"""One browser that looks on: what it wants to see, and what is on its way to it."""

from __future__ import annotations

import asyncio
import struct
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from starlette.websockets import WebSocket, WebSocketDisconnect

from stream.messages import TracksMessage
from stream.web.feed import StreamState
from stream.web.pictures import Layer, Picture

IN_FLIGHT = 2  # pictures of a stream that a browser has not yet drawn; more would only make it show the past
TEXTS = 8
MAX_WIDTH = 4096
UNSENT = frozenset({"cov"})


class Wish(msgspec.Struct, forbid_unknown_fields=True):
    """What a browser says.

    Attributes:
        watch: the streams that it shows, and how wide each is on its screen, pixels; None for no change.
        layer: what it shows of them.
        drawn: a stream of which it has drawn a picture.
    """

    watch: dict[str, int] | None = None
    layer: Literal["frame", "targets"] | None = None
    drawn: str | None = None


@dataclass
class Update:
    """A frame that is to be shown."""

    message: TracksMessage
    picture: Picture | None
    pictures: bool
    width: int

    def encode(self) -> bytes:
        """Return it as it goes over the wire: the length of a JSON header (uint32, little-endian), it, the picture."""
        message = self.message
        header = msgspec.json.encode(
            {
                "stream": message.stream,
                "seq": message.seq,
                "width": message.width,
                "height": message.height,
                "captured_utc_ns": str(message.captured_utc_ns),  # more than JavaScript's numbers hold
                "late_ms": (message.published_ns - message.captured_ns) / 1e6,
                "pictures": self.pictures,
                "layer": self.picture.layer if self.picture else None,
                "tracks": [
                    {name: getattr(track, name) for name in track.__struct_fields__ if name not in UNSENT}
                    for track in message.tracks
                ],
            }
        )
        picture = self.picture.encode(self.width) if self.picture else b""
        return struct.pack("<I", len(header)) + header + picture


@dataclass(eq=False)
class Viewer:
    """A browser. Of each stream at most one frame waits for it: the newest."""

    watch: dict[str, int] = field(default_factory=dict)
    layer: Layer = "frame"
    _on_its_way: Counter[str] = field(default_factory=Counter)
    _waiting: dict[str, Update] = field(default_factory=dict)
    _offered: dict[str, tuple[int, Layer, int]] = field(default_factory=dict)
    _texts: deque[str] = field(default_factory=lambda: deque(maxlen=TEXTS))
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def offer(self, state: StreamState) -> None:
        """Take a stream's last frame, if it is shown, not yet sent, and the browser keeps up."""
        width = self.watch.get(state.name)
        if width is None or state.last is None or self._on_its_way[state.name] >= IN_FLIGHT:
            return
        what = (state.last.seq, self.layer, width)
        if self._offered.get(state.name) == what:
            return
        picture = state.picture(self.layer)
        if picture is None and state.has_pictures:  # its slot is another frame's by now: the next will do
            return
        self._offered[state.name] = what
        self._waiting[state.name] = Update(state.last, picture, state.has_pictures, width)
        self._wake.set()

    def say(self, text: str) -> None:
        """Send a text; the oldest of those that wait makes room."""
        self._texts.append(text)
        self._wake.set()

    def wish(self, text: str) -> None:
        """Take in what the browser says.

        Raises:
            ValueError: if it is none of what a browser may say.
        """
        said = msgspec.json.decode(text, type=Wish)
        if said.watch is not None:
            self.watch = {name: min(max(width, 1), MAX_WIDTH) for name, width in said.watch.items()}
            self._waiting = {name: update for name, update in self._waiting.items() if name in self.watch}
        if said.layer:
            self.layer = said.layer
        if said.drawn is not None and self._on_its_way[said.drawn]:
            self._on_its_way[said.drawn] -= 1

    async def serve(self, websocket: WebSocket) -> None:
        """Send what waits until the browser goes."""
        with suppress(WebSocketDisconnect, ConnectionError):
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._texts:
                    await websocket.send_text(self._texts.popleft())
                for name in list(self._waiting):
                    if update := self._waiting.pop(name, None):
                        self._on_its_way[name] += 1
                        await websocket.send_bytes(await asyncio.to_thread(update.encode))
