"""Sources that are live, as tests read them."""

import functools
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from stream.sources import open_source

PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)
SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(condition, seconds=10.0):
    """Return what ``condition`` gives once it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.01)
    return value


@contextmanager
def opened(url):
    source = open_source(url)
    try:
        yield source
    finally:
        source.close()


def next_frame(source, seconds=10.0):
    return wait_for(lambda: source.read(0.1), seconds)


def answers(port):
    try:
        socket.create_connection(("127.0.0.1", port), 0.2).close()
    except OSError:
        return False
    return True


@functools.cache
def why_no_server():
    code = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        ran = subprocess.run([SYSTEM_PYTHON, "-c", code], capture_output=True, timeout=60, check=False)
    except OSError:
        return f"no {SYSTEM_PYTHON}"
    return "" if ran.returncode == 0 else "no GStreamer RTSP server"


@contextmanager
def rtsp_server(port, *options):
    if why := why_no_server():
        pytest.skip(f"{why}; on Debian: apt-get install {PACKAGES}")
    command = [SYSTEM_PYTHON, SERVER, str(port), *options]
    with running(command, lambda: answers(port), "the RTSP server ended", stdin=subprocess.PIPE) as process:
        yield process


@contextmanager
def running(command, is_ready, ended, stdin=None):
    """A server's process, once it is ready; where it ends before, the test skips."""
    process = subprocess.Popen(command, stdin=stdin, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: is_ready() or process.poll() is not None)
        if process.poll() is not None:
            pytest.skip(f"{ended} ({process.stderr.read().strip()}); on Debian: apt-get install {PACKAGES}")
        yield process
    finally:
        process.kill()
        process.communicate()
