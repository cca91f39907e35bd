import base64
import http.server
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
from typing import ClassVar

import av
import cv2
import numpy as np
import pytest

from stream.sources import network, open_source
from stream.sources.base import EndOfSource, SourceError
from stream.sources.network import NetworkSource
from tests.stream.sources.live import free_port, next_frame, opened, rtsp_server, wait_for

MS = 1_000_000

pytestmark = pytest.mark.usefixtures("hasty")


def test_rtsp_gives_frames_with_their_times():
    port = free_port()
    with rtsp_server(port), opened(f"rtsp://127.0.0.1:{port}/ir") as source:
        info = source.info
        assert (info.width, info.height, info.bits, info.fps, info.live) == (128, 96, 8, 25.0, True)
        frames = [next_frame(source) for _ in range(30)]
        assert {(frame.pixels.shape, frame.pixels.dtype.name) for frame in frames} == {((96, 128), "uint8")}
        # The ball of the test picture is in each: no picture lacks slices.
        assert all(frame.pixels.max() > 200 and np.median(frame.pixels) < 20 for frame in frames)
        spans = np.diff([frame.camera_ns for frame in frames]) / (40 * MS)
        np.testing.assert_allclose(spans, [frame.lost + 1 for frame in frames[1:]], atol=0.01)
        assert all(0 <= time.monotonic_ns() - frame.captured_ns < 10e9 for frame in frames)


def test_a_picture_is_not_held_until_the_next_one_begins():
    port = free_port()
    with rtsp_server(port, "--fps", "4"), opened(f"rtsp://127.0.0.1:{port}/ir") as source:
        wait_for(lambda: next_frame(source).camera_utc_ns)
        late_ns = []
        for _ in range(9):
            frame = next_frame(source)
            captured_utc_ns = frame.captured_ns + time.time_ns() - time.monotonic_ns()
            late_ns.append(captured_utc_ns - frame.camera_utc_ns)
        assert -2 * MS < np.median(late_ns) < 150 * MS  # the server's clock is ours; a period is 250 ms


def test_motion_jpeg_over_rtsp():
    port = free_port()
    with rtsp_server(port, "--codec", "jpeg"), opened(f"rtsp://127.0.0.1:{port}/ir") as source:
        frame = next_frame(source)
        assert frame.pixels.shape == (96, 128)
        assert frame.pixels.max() > 200


def test_a_slow_reader_gets_the_freshest_frame_and_the_count_of_the_others():
    port = free_port()
    with rtsp_server(port), opened(f"rtsp://127.0.0.1:{port}/ir") as source:
        first = next_frame(source)
        wait_for(lambda: time.monotonic_ns() - first.captured_ns > 600 * MS)
        second = next_frame(source)
        assert time.monotonic_ns() - second.captured_ns < 200 * MS
        assert second.lost == round((second.camera_ns - first.camera_ns) / (40 * MS)) - 1 > 8


@pytest.mark.parametrize("size", [(96, 80), (320, 256)])
def test_a_change_of_size_gives_frames_of_the_new_one(size):
    port = free_port()
    with rtsp_server(port) as server, opened(f"rtsp://127.0.0.1:{port}/ir") as source:
        assert next_frame(source).pixels.shape == (96, 128)
        server.stdin.write("{} {}\n".format(*size))
        server.stdin.flush()
        wait_for(lambda: next_frame(source).pixels.shape == size[::-1])


def test_a_server_that_dies_and_comes_back_is_found_again(caplog):
    port = free_port()
    with rtsp_server(port, "--password", "geheim") as first:
        source = open_source(f"rtsp://viewer:geheim@127.0.0.1:{port}/ir")
        before = next_frame(source)
        first.kill()
        first.wait()
        while frame := source.read(0.5):
            before = frame
    with rtsp_server(port, "--password", "geheim"):
        after = next_frame(source)
        away = (after.captured_ns - before.captured_ns) / (40 * MS)
        assert after.lost == pytest.approx(away - 1, abs=3)
        assert next_frame(source).lost < 25
        source.close()
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 2
    assert "away" in said[0]
    assert "back after" in said[1]
    assert "viewer:***@" in said[0]
    assert "geheim" not in caplog.text


def test_a_camera_that_refuses_is_asked_ever_more_rarely_and_not_in_step():
    port = free_port()
    with rtsp_server(port) as server, opened(f"rtsp://127.0.0.1:{port}/ir") as source:
        next_frame(source)
        server.kill()
        server.wait()
        asked = []
        with socket.create_server(("127.0.0.1", port)) as refusing:
            refusing.settimeout(20)
            while len(asked) < 12:
                connection, _ = refusing.accept()
                asked.append(time.monotonic())
                connection.close()
        pauses = np.diff(asked)
        # 0.1, then 0.2, then 0.3 s, each half as long to half as long again: a crowded machine only lengthens them.
        assert (pauses[3:] >= 0.15 * 0.95).all()
        assert np.ptp(pauses[3:]) > 0.02


@pytest.mark.parametrize("pause_s", [0.6, 2.5])
def test_a_server_that_is_paused_is_read_again_when_it_goes_on(pause_s):
    port = free_port()
    with rtsp_server(port) as server, opened(f"rtsp://127.0.0.1:{port}/ir") as source:
        before = [next_frame(source) for _ in range(10)][-1]
        server.send_signal(signal.SIGSTOP)
        try:
            wait_for(lambda: source.read(0.2) is None)
            started = time.monotonic()
            while time.monotonic() - started < pause_s:
                asked = time.monotonic()
                assert source.read(0.1) is None
                assert time.monotonic() - asked < 0.5
        finally:
            server.send_signal(signal.SIGCONT)
        after = next_frame(source)
        assert after.captured_ns - before.captured_ns > pause_s * 1e9
        assert after.camera_ns is not None


def test_closing_takes_less_than_a_second_while_the_peer_is_hung():
    port = free_port()
    with rtsp_server(port) as server:
        source = open_source(f"rtsp://127.0.0.1:{port}/ir")
        next_frame(source)
        server.send_signal(signal.SIGSTOP)
        wait_for(lambda: source.read(0.2) is None)
        started = time.monotonic()
        source.close()
        source.close()
        assert time.monotonic() - started < 1
        with pytest.raises(EndOfSource):
            source.read(0.1)
        # The reader itself is gone as soon as its time-out is over.
        wait_for(lambda: not any(thread.name == "network" for thread in threading.enumerate()))


def test_a_process_ends_in_order_while_the_peer_is_hung():
    port = free_port()
    code = (
        "import os, signal, sys; from stream.sources import open_source; "
        f"s = open_source('rtsp://127.0.0.1:{port}/ir'); s.read(5); "
        "os.kill(int(sys.argv[1]), signal.SIGSTOP); s.read(0.2); s.close()"
    )
    with rtsp_server(port) as server:
        run = [sys.executable, "-c", code, str(server.pid)]
        ran = subprocess.run(run, capture_output=True, timeout=14, check=False, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize(
    ("user", "options", "path", "says"),
    [
        # A wrong password.
        ("viewer:falsch@", ["--password", "geheim"], "ir", "401: wrong user or password"),
        # None at all.
        ("", ["--password", "geheim"], "ir", "401"),
        # A stream that is not there.
        ("viewer:falsch@", [], "other", "404: there is no such stream"),
        # Sound alone.
        ("viewer:falsch@", ["--codec", "sound"], "ir", "no video in it"),
    ],
)
def test_what_an_rtsp_server_refuses_is_one_line(user, options, path, says):
    port = free_port()
    with rtsp_server(port, *options), pytest.raises(SourceError, match=says) as caught:
        open_source(f"rtsp://{user}127.0.0.1:{port}/{path}")
    assert f"127.0.0.1:{port}/{path}" in str(caught.value)
    assert "falsch" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "rtsps", "http", "https"])
def test_a_port_where_nobody_listens_refuses(scheme):
    with pytest.raises(SourceError, match="connection refused") as caught:
        NetworkSource(f"{scheme}://u:geheim@127.0.0.1:{free_port()}/ir")
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_a_peer_that_never_answers_times_out(scheme):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        started = time.monotonic()
        with pytest.raises(SourceError, match="no answer in time"):
            NetworkSource(f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/ir")
        assert time.monotonic() - started < 2 * network.CONNECT_S + 1


def test_udp_without_a_sender_times_out():
    with pytest.raises(SourceError, match="no answer in time"):
        NetworkSource(f"udp://127.0.0.1:{free_port(socket.SOCK_DGRAM)}")


class Camera(threading.Thread):
    """Sends a moving square as MPEG-TS, 25 frames a second, until it is told to stop."""

    def __init__(self, url, **add):
        super().__init__(daemon=True)
        self.url, self.add, self.halt = url, add, threading.Event()
        self.start()

    def run(self):
        with av.open(self.url, "w", **self.add) as out:
            video = out.add_stream("libx264", rate=25)
            video.width, video.height, video.pix_fmt = 128, 96, "yuv420p"
            video.options = {"tune": "zerolatency", "preset": "ultrafast", "g": "10"}
            number, start = 0, time.monotonic()
            while not self.halt.wait(max(start + number / 25 - time.monotonic(), 0)):
                gray = np.full((96, 128), 20, np.uint8)
                gray[40:56, number % 100 : number % 100 + 16] = 230
                frame = av.VideoFrame.from_ndarray(gray, format="gray").reformat(format="yuv420p")
                frame.pts = number
                out.mux(video.encode(frame))
                number += 1

    def stop(self):
        self.halt.set()
        self.join(10)


@pytest.mark.parametrize(("scheme", "form"), [("udp", "mpegts"), ("rtp", "rtp_mpegts")])
def test_mpegts_in_datagrams_goes_on_after_its_sender_came_back(scheme, form):
    url = f"{scheme}://127.0.0.1:{free_port(socket.SOCK_DGRAM)}"
    camera = Camera(url, format=form)
    source = open_source(url)
    try:
        assert (source.info.width, source.info.height, source.info.bits) == (128, 96, 8)
        frame = [next_frame(source) for _ in range(10)][-1]
        assert frame.pixels.max() > 200
        camera.stop()
        wait_for(lambda: source.read(0.2) is None)
        camera = Camera(url, format=form)
        assert next_frame(source).pixels.shape == (96, 128)
    finally:
        camera.stop()
        source.close()


class WebCamera(http.server.BaseHTTPRequestHandler):
    """Motion-JPEG: open, behind a password, with every fifth picture damaged, or a few pictures only; and a page."""

    asked: ClassVar[list[float]] = []  # when for those few

    def do_GET(self):
        right = "Basic " + base64.b64encode(b"viewer:geheim").decode()
        if self.path == "/guarded" and self.headers.get("Authorization") != right:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.end_headers()
        elif self.path in ("/guarded", "/open", "/damaged", "/brief"):
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            if self.path == "/brief":
                self.asked.append(time.monotonic())
            for number in range(6 if self.path == "/brief" else 1000):
                gray = np.full((96, 128), 20, np.uint8)
                gray[40:56, number % 100 : number % 100 + 16] = 230
                jpeg = cv2.imencode(".jpg", gray)[1].tobytes()
                if self.path == "/damaged" and number > 20 and number % 5 == 0:
                    jpeg = jpeg[:2] + bytes(len(jpeg) - 2)
                head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(jpeg)}\r\n\r\n"
                try:
                    self.wfile.write(head.encode() + jpeg + b"\r\n")
                except OSError:
                    return
                time.sleep(0.04)
        elif self.path == "/page":
            page = b"<html>hello</html>" * 1000
            self.send_response(200)
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
        else:
            self.send_error(404)

    def log_message(self, *args):
        pass


@pytest.fixture
def web():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebCamera) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def test_motion_jpeg_over_http_with_a_password(web):
    with opened(f"http://viewer:geheim@127.0.0.1:{web}/guarded") as source:
        assert (source.info.width, source.info.height, source.info.bits, source.info.fps) == (128, 96, 8, None)
        frames = [next_frame(source) for _ in range(10)]
        assert all(frame.pixels.max() > 200 and frame.camera_ns is None for frame in frames)


def test_a_camera_that_gives_a_few_frames_and_hangs_up_is_asked_ever_more_rarely(web, monkeypatch):
    WebCamera.asked.clear()
    with opened(f"http://127.0.0.1:{web}/brief") as source:
        wait_for(lambda: source.read(0.05) and len(WebCamera.asked) >= 8, 20)
        assert source._pause_s == network.BACKOFF_S[1]
        # From one answer to the next question: as of a camera that refuses.
        assert (np.diff(WebCamera.asked)[3:] >= 0.15 * 0.95 + 5 * 0.04).all()
        # After frames for a while the pause is the first one again.
        monkeypatch.setattr(network, "STEADY_S", 0.0)
        wait_for(lambda: source.read(0.05) and source._pause_s == network.BACKOFF_S[0], 20)


def test_damaged_pictures_of_motion_jpeg_are_counted(web):
    with opened(f"http://127.0.0.1:{web}/damaged") as source:
        frames = [next_frame(source) for _ in range(50)]
        # Where the square is tells a picture's number, modulo 100.
        numbers = [int(np.argmax(frame.pixels[48] > 128)) for frame in frames]
        steps = np.diff(numbers) % 100
        assert [frame.lost for frame in frames[1:]] == list(steps - 1)
        assert max(steps) > 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        # A wrong password.
        ("viewer:falsch@127.0.0.1:{}/guarded", "401: wrong user or password"),
        # A path that is not there.
        ("127.0.0.1:{}/none", "404"),
        # Something else than video.
        ("127.0.0.1:{}/page", "not video that FFmpeg reads"),
    ],
)
def test_what_a_web_server_refuses_is_one_line(web, address, says):
    with pytest.raises(SourceError, match=says) as caught:
        open_source("http://" + address.format(web))
    assert "falsch" not in str(caught.value)
    assert "\n" not in str(caught.value)
