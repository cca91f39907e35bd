import shutil
import socket
import time
from contextlib import contextmanager

import pytest

from stream.sources import check_source, open_source, srt
from stream.sources.base import SourceError
from tests.stream.sources.live import PACKAGES, free_port, next_frame, running, wait_for

pytestmark = pytest.mark.usefixtures("hasty")


@contextmanager
def srt_camera(port, *uri_fields):
    """GStreamer as an SRT listener that sends a test picture."""
    if not shutil.which("gst-launch-1.0"):
        pytest.skip(f"no gst-launch-1.0; on Debian: apt-get install gstreamer1.0-tools {PACKAGES}")
    uri = "&".join([f"srt://127.0.0.1:{port}?mode=listener", *uri_fields])
    words = (
        "videotestsrc is-live=true pattern=ball ! video/x-raw,format=I420,width=128,height=96,framerate=25/1 ! x264enc "
        f"tune=zerolatency speed-preset=ultrafast key-int-max=10 ! mpegtsmux alignment=7 ! srtsink uri={uri}"
    )
    with running(["gst-launch-1.0", "-q", *words.split()], lambda: is_bound(port), "GStreamer has no SRT") as process:
        yield process


def is_bound(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


@pytest.fixture
def _libsrt():
    try:
        srt._library()
    except OSError:
        pytest.skip("no libsrt; on Debian: apt-get install libsrt1.5-gnutls")


@pytest.mark.usefixtures("_libsrt")
def test_srt_with_a_passphrase_is_found_again():
    port = free_port(socket.SOCK_DGRAM)
    url = f"srt://127.0.0.1:{port}?passphrase=geheimgeheim&latency=20"
    with srt_camera(port, "passphrase=geheimgeheim"):
        source = open_source(url)
        assert (source.info.width, source.info.height, source.info.bits) == (128, 96, 8)
        assert all(next_frame(source).pixels.max() > 200 for _ in range(5))
    try:
        wait_for(lambda: source.read(0.2) is None)
        with srt_camera(port, "passphrase=geheimgeheim"):
            assert next_frame(source).pixels.shape == (96, 128)
            started = time.monotonic()
            source.close()
            assert time.monotonic() - started < 1
    finally:
        source.close()


@pytest.mark.usefixtures("_libsrt")
def test_srt_with_a_wrong_passphrase_is_refused():
    port = free_port(socket.SOCK_DGRAM)
    with srt_camera(port, "passphrase=geheimgeheim"), pytest.raises(SourceError, match="is the passphrase") as caught:
        open_source(f"srt://127.0.0.1:{port}?passphrase=falschfalsch")
    assert "falsch" not in str(caught.value)


@pytest.mark.usefixtures("_libsrt")
def test_srt_without_a_listener_times_out():
    with pytest.raises(SourceError, match="no answer in time"):
        open_source(f"srt://127.0.0.1:{free_port(socket.SOCK_DGRAM)}")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        # A field that does not exist; those that do are listed.
        ("mode=listener", "no field 'mode'; those of SRT are passphrase, streamid, latency"),
        # Values that libsrt would not take.
        ("passphrase=short", "10 to 79 characters"),
        ("latency=-1", "milliseconds below 60000"),
        # A field twice.
        ("latency=1&latency=2", "given twice"),
    ],
)
def test_a_bad_srt_field_is_one_line(query, says):
    with pytest.raises(SourceError, match=says) as caught:
        check_source(f"srt://127.0.0.1:9000?{query}")
    assert "short" not in str(caught.value)


def test_without_libsrt_the_debian_package_is_named(monkeypatch):
    monkeypatch.setattr(srt, "LIBRARIES", ())
    srt._library.cache_clear()
    with pytest.raises(SourceError, match=r"apt-get install libsrt1\.5-gnutls"):
        check_source("srt://127.0.0.1:9000")
