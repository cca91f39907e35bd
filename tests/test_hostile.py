"""Hostile video in a running pipeline: what is wrong ends its own stream with one line, and the others go on."""

from __future__ import annotations

import ipaddress
import json
import os
import resource
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from stream.record import find_streams, read_frames, segments
from tests.pipeline import Run, processes, tracks_of, wait_until
from tests.test_security import _png

FULL = 64_000  # bytes that a file of the recorder's may have once its disk "is full"
GOOD = 12  # frames before what is wrong
SMALL, OTHER = (64, 48), (96, 64)


def gray(number: int, size: tuple[int, int]) -> np.ndarray:
    pixels = np.random.default_rng(number).integers(0, 60, size[::-1]).astype(np.uint8)
    pixels[20:23, 10 + number % 30 :][:, :3] = 250
    return pixels


def coded(codec: str, size: tuple[int, int], frames: int) -> bytes:
    context = av.CodecContext.create(codec, "w")
    (context.width, context.height), context.pix_fmt, context.time_base = size, "yuv420p", Fraction(1, 30)
    context.options = {"preset": "ultrafast", "tune": "zerolatency"}
    out = b""
    for number in range(frames):
        frame = av.VideoFrame.from_ndarray(gray(number, size), format="gray").reformat(format="yuv420p")
        frame.pts = number
        out += b"".join(bytes(packet) for packet in context.encode(frame))
    return out + b"".join(bytes(packet) for packet in context.encode(None))


def images(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for number, size in enumerate(sizes):
        cv2.imwrite(str(folder / f"{number}.png"), gray(number, size))
    return folder


def matroska(path: Path, frames: int) -> bytes:
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=30)
        (video.width, video.height), video.pix_fmt = SMALL, "gray"
        for number in range(frames):
            out.mux(video.encode(av.VideoFrame.from_ndarray(gray(number, SMALL), format="gray")))
        out.mux(video.encode(None))
    return path.read_bytes()


def sources(folder: Path) -> dict[str, tuple[Path, str]]:
    """Return hostile files and folders by their names, each good for its first frames, and what is said of them."""
    whole = matroska(folder / "whole.mkv", 3 * GOOD)
    start, huge = coded("libx264", SMALL, GOOD), coded("libx264", (8320, 64), 1)
    contents = {
        "cut.mkv": (whole[: len(whole) * 2 // 3], "cut.mkv: cut off after frame"),
        "torn.mkv": (
            whole[: len(whole) // 2] + os.urandom(4000) + whole[-4000:],
            "torn.mkv: damaged or cut off at frame",
        ),
        "resized.h264": (start + coded("libx264", OTHER, GOOD), f"resized.h264: frame {GOOD} has another size"),
        "huge.h264": (start + huge, "huge.h264: "),
    }
    found = {}
    for name, (content, says) in contents.items():
        (folder / name).write_bytes(content)
        found[name] = folder / name, says
    found["sizes"] = images(folder / "sizes", [SMALL] * GOOD + [OTHER]), "12.png: 96x64 of 8 bit after images of 64x48"
    found["bomb"] = images(folder / "bomb", [SMALL] * GOOD), "bomb/12.png: damaged, cut off, too large or not an image"
    (folder / "bomb" / "12.png").write_bytes(_png(12_000))
    found["empty"] = images(folder / "empty", [SMALL] * GOOD), "empty/12.png: damaged, cut off"
    (folder / "empty" / "12.png").touch()
    found["other"] = images(folder / "other", [SMALL] * GOOD), "other/12.png: damaged, cut off"
    shutil.copy(folder / "whole.mkv", folder / "other" / "12.png")
    return found


class Camera(threading.Thread):
    """Sends MPEG-TS to a UDP port, 30 frames a second, of a size that may be changed."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port, self.size, self.over = port, SMALL, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.is_set():
            size = self.size
            with av.open(f"udp://127.0.0.1:{self.port}?pkt_size=1316", "w", format="mpegts") as out:
                video = out.add_stream("libx264", rate=30)
                (video.width, video.height), video.pix_fmt = size, "yuv420p"
                video.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "10"}
                number = 0
                while not self.over.wait(1 / 30) and size == self.size:
                    frame = av.VideoFrame.from_ndarray(gray(number, size), format="gray").reformat(format="yuv420p")
                    frame.pts = number
                    out.mux(video.encode(frame))
                    number += 1

    def shout(self) -> None:
        """Send what is no MPEG-TS."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for number in range(50):
                sender.sendto(np.random.default_rng(number).bytes(1316), ("127.0.0.1", self.port))


@pytest.fixture
def camera() -> Iterator[Camera]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    camera = Camera(port)
    yield camera
    camera.over.set()
    camera.join(10)


def listening(run: Run) -> set[str]:
    """Return where a run's processes listen: addresses and paths; a ``@`` begins one that any user may connect to."""
    links = [link for pid, _ in processes(run.mark) for link in Path(f"/proc/{pid}/fd").iterdir()]
    mine = set()
    for link in links:
        with suppress(OSError):  # it was closed meanwhile
            mine.add(os.readlink(link).removeprefix("socket:[").rstrip("]"))
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in mine:
                address, port = fields[1].split(":")
                found.add(f"{ipaddress.ip_address(bytes.fromhex(address)[::-1])}:{int(port, 16)}")
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[3], 16) & 0x10000 and fields[6] in mine:
            found.add(" ".join(fields[7:]))
    return found


def strangers(endpoint: str) -> list[socket.socket]:
    """Connect to a publisher as whoever may: some say nothing, some what is no ZeroMQ."""
    host, port = endpoint.removeprefix("tcp://").split(":")
    found = [socket.create_connection((host, int(port))) for _ in range(100)]
    for number, each in enumerate(found[::2]):
        each.sendall(np.random.default_rng(number).bytes(5000))
    return found


def test_what_is_wrong_with_a_stream_ends_it_alone(tmp_path: Path, camera: Camera) -> None:
    """Eight hostile files and folders end, each with a line at once; a scene and a camera go on through it all.

    Through noise on the camera's port and a change of its size, strangers at the publisher's, and a disk that fills:
    no worker dies of it, and what was recorded until then is read back.
    """
    hostile = sources(tmp_path)
    streams = [{"name": name, "source": str(path), "live": True} for name, (path, _) in hostile.items()]
    streams += [{"name": "good", "source": "scene:?width=64&height=64&seed=1&fps=30"}]
    streams += [{"name": "camera", "source": f"udp://127.0.0.1:{camera.port}"}]
    config = tmp_path / "c.yaml"
    options = {"detect": {"false_alarms": 1.0}, "track": {"scene_motion": True}, "record": {"folder": f"{tmp_path}/r"}}
    config.write_text(json.dumps({"streams": streams, **options}))
    run = Run("--config", config, "--report", tmp_path / "r.json", "--wait-for", 1)
    ended: set[str] = set()

    def all_ended(messages: list[dict]) -> bool:
        ended.update(m["stream"] for m in messages[-50:] if m.get("health") == "ended")
        return ended == set(hostile)

    run.listen(all_ended)
    where = {each for each in listening(run) if not each.startswith("/")}  # the fork server's is in a folder of its own
    assert where == {run.endpoint.removeprefix("tcp://")}
    connected = strangers(run.endpoint)
    camera.shout()
    camera.size = OTHER
    run.listen(lambda seen: sum(m["width"] == OTHER[0] for m in tracks_of(seen, "camera")) > 20)
    resource.prlimit(run.worker("record"), resource.RLIMIT_FSIZE, (FULL, FULL))
    room = tmp_path / "r"
    wait_until(lambda: largest(room) >= FULL, 60, "a file of the size that the disk has room for")
    after = run.listen(lambda seen: all(len(tracks_of(seen, name)) > 10 for name in ("good", "camera")))
    os.kill(run.process.pid, signal.SIGINT)
    outcome = run.end()
    for each in connected:
        each.close()
    assert (outcome.code, outcome.left) == (2, []), outcome.err
    *warnings, last = outcome.err.splitlines()
    for name, (_, says) in hostile.items():
        (line,) = [line for line in warnings if line.startswith(f"warning: {name} has ended: ")]
        assert says in line
        assert says in last
    full = [line for line in warnings if line.endswith(": file too large; it is not recorded any more")]
    assert len(full) == 2
    assert len(warnings) == len(hostile) + len(full)
    report = {stream["name"]: stream for stream in json.loads((tmp_path / "r.json").read_text())["streams"]}
    for name, stream in report.items():
        assert stream["restarts"] == {}
        assert stream["frames"] == stream["published"] + stream["dropped"]
        assert stream["published"] == stream["recorded"] + sum(stream["not_recorded_by_reason"].values())
        assert (stream["fault"] is None) == (name not in hostile)
    for name in ("good", "camera"):
        assert tracks_of(after, name)
        assert report[name]["not_recorded_by_reason"]["file too large"] > 0
    kept = {pixels.shape[::-1] for stem in segments(find_streams(room)["camera"]) for _, pixels in read_frames(stem)}
    assert kept == {SMALL, OTHER}


def largest(folder: Path) -> int:
    return max(path.stat().st_size for path in folder.rglob("*") if path.is_file())
