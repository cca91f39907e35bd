import fcntl
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from stream.sources import check_source, gige, open_source
from stream.sources.base import EndOfSource, SourceError, missing
from stream.sources.lasting import LastingSource
from tests.stream.sources.live import next_frame, opened, wait_for

LOCK = Path(tempfile.gettempdir()) / "irstream-fake-gige-camera.lock"
FAKE = "arv-fake-gv-camera-0.8"
NEEDS = "on Debian: apt-get install libaravis-0.8-0 aravis-tools"
ADDRESS = "127.0.0.1"
MS = 1_000_000


@pytest.fixture(autouse=True)
def _aravis():
    try:
        gige._library()
    except OSError:
        pytest.skip(f"no Aravis; {NEEDS}")


def _is_there():
    try:
        gige._look_for(ADDRESS, "")
    except SourceError:
        return False
    return True


@contextmanager
def camera(*options):
    """Aravis's fake GigE camera on loopback, 512x512 at 25 frames a second; its frames count from 65400.

    A machine has room for one, whose port is fixed: another run of the tests waits for its end.
    """
    if not shutil.which(FAKE):
        pytest.skip(f"no {FAKE}; {NEEDS}")
    with LOCK.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield from _started(options)


def _started(options):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((ADDRESS, gige._GVCP_PORT))  # or what answers would be another one
    process = subprocess.Popen([FAKE, "-i", ADDRESS, *options], stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: _is_there() or process.poll() is not None)
        assert process.poll() is None, "the fake camera did not start"
        yield process
    finally:
        process.kill()
        process.wait()


def test_another_run_of_the_tests_waits_for_the_cameras_end():
    with LOCK.open("a") as other:
        with camera(), pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX)


@pytest.mark.parametrize(("form", "dtype"), [("Mono8", np.uint8), ("Mono16", np.uint16)])
def test_frames_come_as_they_are_with_the_cameras_times(form, dtype):
    uri = f"gige:{ADDRESS}?pixel_format={form}&exposure_us=3000&fps=50"
    check_source(uri)
    with camera(), opened(uri) as source:
        info = source.info
        assert (info.width, info.height, info.bits, info.live) == (512, 512, np.dtype(dtype).itemsize * 8, True)
        assert info.fps == pytest.approx(50, rel=0.01)
        frames = []
        for _ in range(10):
            frame = next_frame(source)
            assert frame.pixels.shape == (512, 512)
            assert frame.pixels.dtype == dtype
            assert 0 <= time.monotonic_ns() - frame.captured_ns < 5e9
            frames.append(frame)
        assert all(np.diff([frame.camera_ns for frame in frames]) > 0)
        assert all(np.diff([frame.captured_ns for frame in frames]) > 0)
        # The fake camera's own clock is the time of day: a frame is captured after the camera made it, and soon.
        offset_ns = time.time_ns() - time.monotonic_ns()
        late_ns = [frame.captured_ns + offset_ns - frame.camera_ns for frame in frames]
        assert min(late_ns) > -MS
        assert np.median(late_ns) < 500 * MS


def test_16_bits_are_exact():
    with camera(), opened(f"gige:{ADDRESS}?pixel_format=Mono16") as source:
        pixels = next_frame(source).pixels
        assert len(np.unique(pixels)) > 256  # more than a step through 8 bits would leave


def test_frame_numbers_begin_again_without_a_loss():
    with camera(), opened(f"gige:{ADDRESS}?fps=100") as source:
        frames = lost = 0
        source.read(1.0)
        before = source._last_id
        while source._last_id >= before:
            frame = next_frame(source)
            frames, lost, last = frames + 1, lost + frame.lost, frame
        assert last.lost < 50
        assert frames + lost == source._last_id + 65535 - before


@pytest.mark.parametrize(
    ("last", "number", "lost"),
    [
        # The next one, one that is missing, and the same over the end of the numbers.
        (7, 8, 0),
        (7, 9, 1),
        (65535, 1, 0),
        (65534, 2, 2),
        # A camera that counts nothing, and one that began anew, or counts in 64 bits and did.
        (0, 0, 0),
        (500, 1, 0),
        (500, 0, 0),
        # Numbers of 64 bits.
        (70_000, 70_002, 1),
    ],
)
def test_what_frame_numbers_say_is_missing(last, number, lost):
    assert missing(number, last, gige._IDS) == lost


def test_a_slow_reader_gets_a_fresh_frame_and_the_count_of_the_others():
    with camera(), opened(f"gige:{ADDRESS}") as source:
        before = next_frame(source).camera_ns
        started = time.monotonic()
        wait_for(lambda: time.monotonic() - started > 0.8)
        frame = next_frame(source)
        assert time.monotonic_ns() - frame.captured_ns < 150 * MS
        assert frame.lost == pytest.approx((frame.camera_ns - before) / (40 * MS) - 1, abs=3)
        assert frame.lost > 10


def test_frames_with_lost_packets_are_not_given_but_counted():
    with camera("-r", "2"), opened(f"gige:{ADDRESS}") as source:
        first = next_frame(source)
        number, last = source._last_id, first
        lost = frames = 0
        deadline = time.monotonic() + 6
        while time.monotonic() < deadline and frames < 40:
            if frame := source.read(0.2):
                assert frame.pixels.shape == (512, 512)
                frames, lost, last = frames + 1, lost + frame.lost, frame
        assert frames + lost == (source._last_id - number) % 65535
        assert lost > 0
        assert last.camera_ns >= first.camera_ns


def test_a_camera_that_falls_silent_is_an_error_and_closing_it_takes_less_than_a_second(monkeypatch):
    monkeypatch.setattr(gige, "SILENCE_S", 1.0)
    with camera() as process:
        source = open_source(f"gige:{ADDRESS}")
        next_frame(source)
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(SourceError, match="no whole frame for 1 s"):
            wait_for(lambda: source.read(0.1) and None)
        started = time.monotonic()
        source.close()
        source.close()
        assert time.monotonic() - started < 1
        with pytest.raises(EndOfSource):
            source.read(0.1)


def test_a_camera_that_was_off_is_opened_again(monkeypatch, caplog):
    monkeypatch.setattr(gige, "SILENCE_S", 1.0)
    uri = f"gige:{ADDRESS}?fps=25"
    with camera():
        first = open_source(uri)
        source = LastingSource(uri, first, first.info)
        before = next_frame(source)
    while frame := source.read(0.5):
        before = frame
    with camera():
        frame = next_frame(source, 30)
        assert frame.pixels.shape == (512, 512)
        assert frame.lost == pytest.approx((frame.captured_ns - before.captured_ns) / (40 * MS) - 1, abs=2)
        assert next_frame(source).lost < 25
        source.close()
    said = [record.getMessage() for record in caplog.records]
    assert "away (no whole frame for 1 s" in said[0]
    assert "back after" in said[1]


def test_a_camera_that_is_not_there_is_one_line():
    with pytest.raises(SourceError, match=r"no GigE Vision camera answers at 127\.0\.0\.9"):
        open_source("gige:127.0.0.9")


@pytest.mark.parametrize(
    ("query", "says"),
    [
        # Beyond what the camera can do.
        ("exposure_us=1e12", "exposure_us is 10 to 1e.07 on this camera"),
        ("fps=1e6", "fps is .* on this camera"),
        # A format that it does not have.
        ("pixel_format=Mono14", "127.0.0.1"),
    ],
)
def test_what_a_camera_refuses_is_one_line(query, says):
    with camera(), pytest.raises(SourceError, match=says) as caught:
        open_source(f"gige:{ADDRESS}?{query}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        # A field that does not exist; those that do are listed.
        ("gige:a?gain=3", "no field 'gain'; a camera's fields are exposure_us, fps, pixel_format"),
        # Numbers that are none, or not above 0.
        ("gige:a?fps=fast", "fps=fast: a number above 0"),
        ("u3v:a?exposure_us=-1", "exposure_us=-1: a number above 0"),
        ("gige:?fps=nan", "fps=nan: a number above 0"),
        # Colour.
        ("gige:?pixel_format=RGB8", "one of Mono8, Mono10"),
        # A field twice, and one without a value.
        ("gige:?fps=1&fps=2", "given twice"),
        ("gige:?fps", "no field"),
    ],
)
def test_a_bad_uri_is_one_line(uri, says):
    for use in (check_source, open_source):
        with pytest.raises(SourceError, match=says) as caught:
            use(uri)
        assert "\n" not in str(caught.value)


def test_without_the_library_the_debian_package_is_named(monkeypatch):
    gige._library.cache_clear()
    monkeypatch.setattr(gige, "LIBRARY", "libnone.so.0")
    with pytest.raises(SourceError, match=r"apt-get install libaravis-0\.8-0"):
        check_source("gige:")
