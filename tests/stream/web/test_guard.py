"""Who may come in, and where the server listens."""

from __future__ import annotations

import http.client
import json
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from stream import StreamError
from stream.web.address import listen, split_address

LIMIT_S = 20.0


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:9000", ("0.0.0.0", 9000)),
        (":9000", ("127.0.0.1", 9000)),
        ("9000", ("127.0.0.1", 9000)),
        ("camera-host", ("camera-host", 8080)),
        ("[::1]:9000", ("::1", 9000)),
        ("[::1]", ("::1", 8080)),
    ],
)
def test_an_address_may_leave_out_its_host_or_its_port(text: str, address: tuple[str, int]) -> None:
    assert split_address(text) == address


@pytest.mark.parametrize("text", ["127.0.0.1:http", "127.0.0.1:70000", "::1", "127.0.0.1:"])
def test_what_is_no_address_is_refused_and_one_is_shown(text: str) -> None:
    with pytest.raises(StreamError, match=r"--view .*HOST:PORT is expected, such as 127\.0\.0\.1:8080"):
        listen("--view", text)


def test_an_address_that_is_taken_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(StreamError, match=f"--metrics {address}: address already in use"):
            listen("--metrics", address)


def test_only_beyond_loopback_is_a_token_asked_for_and_each_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IRSTREAM_TOKEN", raising=False)
    near, far, other = (listen("--view", f"{host}:0") for host in ("127.0.0.1", "0.0.0.0", "0.0.0.0"))
    assert near.token is None
    assert far.token
    assert far.token != other.token
    assert far.url.endswith(f"?token={far.token}")
    for each in (near, far, other):
        each.socket.close()


def get(port: int, path: str, **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    connection.request("GET", path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    code = connection.getresponse().status
    connection.close()
    return code


def opens(url: str, **given: str) -> None:
    with connect(url, **given):
        pass


def port_of(url: str) -> int:
    return int(url.partition("/?")[0].rstrip("/").rpartition(":")[2])


def test_on_loopback_only_this_host_is_answered_and_only_its_own_page(view: Callable[..., Any]) -> None:
    """A site that has its name point here (DNS rebinding), or whose page opens a WebSocket here, gets nothing."""
    port = port_of(view().url)
    assert get(port, "/") == 200
    assert get(port, "/", Host=f"localhost:{port}") == 200
    assert get(port, "/", Host=f"evil.example:{port}") == 403
    opens(f"ws://127.0.0.1:{port}/live", origin=f"http://127.0.0.1:{port}")
    opens(f"ws://127.0.0.1:{port}/live")  # no browser: it names no origin
    with pytest.raises(InvalidStatus, match="403"):
        opens(f"ws://127.0.0.1:{port}/live", origin="http://evil.example")


def test_beyond_loopback_nothing_but_health_is_had_without_the_token(view: Callable[..., Any]) -> None:
    url = view(address="0.0.0.0:0").url
    port, token = port_of(url), url.partition("?token=")[2]
    for path in ("/", "/metrics", "/static/view.js", f"/?token={token}x", "/?token=", "/no/such/page"):
        assert get(port, path) == 403
    assert get(port, "/healthz") == 200
    assert get(port, f"/?token={token}") == 303
    assert get(port, "/", Cookie=f"irstream_token={token}") == 200
    assert get(port, "/metrics", Authorization=f"Bearer {token}") == 200
    with pytest.raises(InvalidStatus, match="403"):
        opens(f"ws://127.0.0.1:{port}/live")
    opens(f"ws://127.0.0.1:{port}/live?token={token}")


def header(data: bytes) -> dict:
    (length,) = struct.unpack_from("<I", data)
    return json.loads(data[4 : 4 + length])


def hear(browser: ClientConnection, kind: type) -> Any:
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        data = browser.recv(LIMIT_S)
        if isinstance(data, kind):
            return data
    raise AssertionError(f"no {kind.__name__} came")


def test_a_browser_that_does_not_draw_is_sent_two_frames_and_then_the_newest(
    view: Callable[..., Any], pipeline: Any
) -> None:
    """Nothing queues for it: once it has drawn one, it gets the last frame there is, with its own picture."""
    with connect(view().url.replace("http", "ws") + "live") as browser:
        pipeline.wait_for("status/")
        pipeline.send(pipeline.status())
        pipeline.wait_for("tracks/")
        browser.send(json.dumps({"watch": {"sky": 64}, "layer": "frame"}))
        for seq in (0, 1):
            pipeline.frame()
            assert header(hear(browser, bytes))["seq"] == seq
        for _ in range(20):
            pipeline.frame()
        end = time.monotonic() + 2.5  # of which two seconds' states come
        while time.monotonic() < end:
            assert isinstance(browser.recv(LIMIT_S), str)
        browser.send(json.dumps({"drawn": "sky"}))
        newest = hear(browser, bytes)
        assert header(newest)["seq"] == 21
        assert newest[4 + struct.unpack_from("<I", newest)[0] :][:2] == b"\xff\xd8"  # a JPEG


def read_all(browser: ClientConnection) -> None:
    while True:
        browser.recv(LIMIT_S)


def test_who_says_what_no_browser_says_is_hung_up_on(view: Callable[..., Any]) -> None:
    address = view().url.replace("http", "ws") + "live"
    for said in ("{", "[]", '{"watch": 3}', '{"layer": "noise"}', '{"command": "rm"}', "x" * 70_000):
        with connect(address) as browser:
            browser.send(said)
            with pytest.raises(ConnectionClosed):
                read_all(browser)
