"""Who may come in: browsers on this host that no other site sends, and whoever has the token."""

from __future__ import annotations

import ipaddress
import secrets
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "irstream_token"
OPEN = ("/healthz", "/readyz")
SAFE = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'",
    "cache-control": "no-cache",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class Guard:
    """Refuses requests without the token, and those that another site's page makes a browser send.

    Args:
        app: what it guards.
        token: in the query (``?token=``), the cookie that this gives, or as a bearer's; None asks for none, and then
            only names of this host are answered, so that no other site's name can be pointed at it.
    """

    def __init__(self, app: ASGIApp, token: str | None) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or scope["path"] in OPEN:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        origin = headers.get("origin")
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        if self.token is None and not _is_this_host(host):
            await _refuse(scope, receive, send, f"{host}: not a name of this host")
        elif scope["type"] == "websocket" and origin is not None and urlsplit(origin).netloc != host:
            await _refuse(scope, receive, send, "another site's page may not look on")
        elif self.token is not None and not self._has_token(headers, asked):
            await _refuse(scope, receive, send, "a token is needed: open the address that the pipeline printed")
        elif self.token is not None and asked and scope["type"] == "http" and scope["path"] == "/":
            response = RedirectResponse("/", 303)  # the token out of the address bar
            response.set_cookie(COOKIE, self.token, httponly=True, samesite="strict")
            await response(scope, receive, send)
        else:
            await self.app(scope, receive, _with_safe_headers(send))

    def _has_token(self, headers: Headers, asked: str) -> bool:
        assert self.token is not None
        given = (
            asked,
            cookie_parser(headers.get("cookie", "")).get(COOKIE, ""),
            headers.get("authorization", "").removeprefix("Bearer "),
        )
        return any([secrets.compare_digest(each.encode(), self.token.encode()) for each in given])  # noqa: C419 (all)


def _is_this_host(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _refuse(scope: Scope, receive: Receive, send: Send, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()  # its opening; closed before it is accepted, it is refused with 403
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    await PlainTextResponse(f"{reason}\n", 403)(scope, receive, send)


def _with_safe_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in SAFE.items())]
        await send(message)

    return sent
