"""Sources that are live, as tests read them."""

import socket
import time
from contextlib import contextmanager

from stream.sources import open_source

PACKAGES = (
    "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good "
    "gstreamer1.0-plugins-bad gstreamer1.0-plugins-ugly"
)


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
