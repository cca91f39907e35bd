"""The view of a real run: what it shows is what is published, and its end is nobody's end."""

from __future__ import annotations

import json
import os
import signal
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from websockets.sync.client import connect

from stream.curve import make_pair
from tests.pipeline import LIMIT_S, Run, run, tracks_of, wait_until

SCENE = "scene:?seed=1&width=128&height=96&fps=10&bits={bits}"


def answers(port: int, path: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def watch(port: int, frames: int) -> list[tuple[dict, Any]]:
    """Look on as a browser does; return the headers and the pictures of some frames."""
    seen: list[tuple[dict, Any]] = []
    with connect(f"ws://127.0.0.1:{port}/live") as browser:
        while len(seen) < frames:
            data = browser.recv(LIMIT_S)
            if isinstance(data, str):
                names = [stream["name"] for stream in json.loads(data)["streams"] if isinstance(stream, dict)]
                browser.send(json.dumps({"watch": dict.fromkeys(names, 4096)}))
                continue
            (length,) = struct.unpack_from("<I", data)
            header = json.loads(data[4 : 4 + length])
            picture = cv2.imdecode(np.frombuffer(data[4 + length :], np.uint8), cv2.IMREAD_UNCHANGED)
            seen.append((header, picture))
            browser.send(json.dumps({"drawn": header["stream"]}))
    return seen


def test_pictures_and_tracks_are_of_the_same_frame_and_targets_are_in_them(unused_port: int) -> None:
    """A scene knows its targets: the picture that comes with a frame has them, brighter than what is around."""
    sources = [word for bits in (8, 16) for word in ("--source", SCENE.format(bits=bits))]
    running = Run(*sources, "--view", f"127.0.0.1:{unused_port}")
    wait_until(lambda: answers(unused_port, "/readyz"), LIMIT_S, "the view to be ready")
    truths: dict[tuple[str, int], list[dict]] = {}
    tracks: dict[tuple[str, int], dict] = {}

    def heard(messages: list[dict]) -> bool:
        last = messages[-1]
        if last["schema"] == "irstream.truth/1":
            truths[last["stream"], last["seq"]] = last["targets"]
        for each in tracks_of([last], last["stream"]):
            tracks[each["stream"], each["seq"]] = each
        return len(truths) >= 60

    seen: list[tuple[dict, Any]] = []
    viewer = threading.Thread(target=lambda: seen.extend(watch(unused_port, 40)))
    viewer.start()
    running.listen(heard)
    viewer.join(LIMIT_S)
    running.process.send_signal(signal.SIGINT)
    outcome = running.end()
    assert (outcome.code, outcome.left) == (0, [])
    assert f"live view: http://127.0.0.1:{unused_port}/" in outcome.out
    contrasts: dict[str, list[float]] = {"scene": [], "scene_2": []}
    for header, picture in seen:
        key = header["stream"], header["seq"]
        if key not in truths or key not in tracks:
            continue
        assert picture.shape == (96, 128)
        assert [(t["id"], t["x"], t["state"]) for t in header["tracks"]] == [
            (t["id"], pytest.approx(t["x"]), t["state"]) for t in tracks[key]["tracks"]
        ]
        for target in truths[key]:
            x, y = round(target["x"]), round(target["y"])
            if 8 <= x < 120 and 8 <= y < 88:
                around = picture[y - 6 : y + 7, x - 6 : x + 7].astype(float)
                contrasts[header["stream"]].append(around[5:8, 5:8].max() - np.median(around))
    for each in contrasts.values():
        assert len(each) > 10
        assert np.median(each) > 5  # grey levels


def test_a_view_that_dies_or_is_stopped_is_started_again_and_the_run_goes_on(tmp_path: Path, unused_port: int) -> None:
    """Here of a pipeline that asks its clients for keys, too: it lets its own view in."""
    _, secret = make_pair(tmp_path / "keys", "pipeline")
    (tmp_path / "clients").mkdir()
    config = tmp_path / "keys.yaml"
    config.write_text(
        f"streams: [{{name: sky, source: '{SCENE.format(bits=8)}'}}]\n"
        f"publish: {{key: {secret}, clients: {tmp_path}/clients}}\n"
    )
    running = Run("--config", config, "--metrics", f"127.0.0.1:{unused_port}")
    wait_until(lambda: answers(unused_port, "/readyz"), LIMIT_S, "the metrics to be ready")
    assert not answers(unused_port, "/")  # metrics alone
    for number in (signal.SIGKILL, signal.SIGSTOP):
        first = running.worker("web")
        os.kill(first, number)
        wait_until(lambda first=first: running.worker("web") != first, LIMIT_S, "another web process")
        wait_until(lambda: answers(unused_port, "/metrics"), LIMIT_S, "the metrics to be back")
    running.process.send_signal(signal.SIGTERM)
    outcome = running.end()
    assert (outcome.code, outcome.left) == (0, [])
    assert "died" not in outcome.out + outcome.err


@pytest.mark.parametrize(
    ("option", "address", "says"),
    [("--view", "127.0.0.1:http", "HOST:PORT is expected"), ("--metrics", "203.0.113.1:80", "cannot assign")],
)
def test_an_address_that_cannot_be_had_is_one_line(option: str, address: str, says: str) -> None:
    outcome = run("--source", "scene:?frames=5", option, address)
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert line.startswith(f"error: {option} {address}: ")
    assert says in line
