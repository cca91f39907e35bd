"""No camera is needed: the kernel's side of the interface is played by ``Driver``, on a file for the frames."""

import ctypes
import fcntl
import os
import select
import time
from collections import deque

import numpy as np
import pytest

from stream.sources import check_source, lasting, open_source, v4l2
from stream.sources.base import EndOfSource, SourceError
from stream.sources.lasting import LastingSource
from stream.sources.v4l2 import V4l2Source
from tests.stream.sources.live import wait_for

RNG = np.random.default_rng(0)
MONOTONIC_AT_THE_END, MONOTONIC_AT_THE_START, DAMAGED = 0x2000, 0x12000, 0x40
SLOT = 1 << 20


class Driver:
    """A camera's driver: it answers requests, and fills the buffers that it was given when told to."""

    def __init__(self, codes=(b"Y16 ", b"GREY"), size=(66, 48), line=0, caps=0x04000001):
        self.codes, self.size, self.caps = codes, size, caps
        self.code, self.padding = codes[0], line
        self.period = (1, 30)
        self.free, self.full = deque(), deque()
        self.number = 0
        self.fault = None
        self.streaming = False
        self.memory = os.memfd_create("camera")
        os.truncate(self.memory, 16 * SLOT)
        self.requests = {
            v4l2.QUERYCAP: self.tell_kind,
            v4l2.G_FMT: self.tell_format,
            v4l2.S_FMT: self.take_format,
            v4l2.G_PARM: self.tell_rate,
            v4l2.S_PARM: self.take_rate,
            v4l2.REQBUFS: lambda _: None,
            v4l2.QUERYBUF: self.tell_buffer,
            v4l2.QBUF: lambda buffer: self.free.append(buffer.index),
            v4l2.DQBUF: self.give,
            v4l2.STREAMON: lambda _: setattr(self, "streaming", True),
            v4l2.STREAMOFF: lambda _: setattr(self, "streaming", False),
        }

    def ioctl(self, _, request, argument):
        if self.fault:
            raise self.fault
        self.requests[request](argument)

    def select(self, _, __, ___, timeout):
        if not self.full:
            time.sleep(min(timeout, 0.01))
        return ([1] if self.full else []), [], []

    def tell_kind(self, found):
        found.card, found.capabilities, found.device_caps = b"Test camera", 0x80000000 | self.caps, self.caps

    def tell_format(self, form):
        form.width, form.height = self.size
        form.pixelformat, form.bytesperline = self.code, self.line

    @property
    def line(self):
        return self.size[0] * (1 if self.code == b"GREY" else 2) + self.padding

    def take_format(self, form):
        self.code = form.pixelformat if form.pixelformat in self.codes else self.codes[0]
        self.tell_format(form)

    def tell_rate(self, rate):
        rate.numerator, rate.denominator = self.period

    def take_rate(self, rate):
        self.period = (rate.numerator, rate.denominator)

    def tell_buffer(self, buffer):
        buffer.offset, buffer.length = buffer.index * SLOT, SLOT

    def give(self, buffer):
        if not self.full:
            raise BlockingIOError
        ctypes.pointer(buffer)[0] = self.full.popleft()

    def fill(self, pixels, flags=MONOTONIC_AT_THE_END):
        """Take a picture, if there is a buffer for it."""
        number, self.number = self.number, self.number + 1
        now_us = time.monotonic_ns() // 1000
        if not self.free:
            return None
        index = self.free.popleft()
        for row, values in enumerate(pixels):
            os.pwrite(self.memory, values.tobytes(), index * SLOT + row * self.line)
        seconds, microseconds = divmod(now_us, 1_000_000)
        buffer = v4l2.Buffer(index=index, flags=flags, sequence=number, seconds=seconds, microseconds=microseconds)
        self.full.append(buffer)
        return now_us * 1000


def picture(dtype=np.uint16, top=None):
    return RNG.integers(0, top or np.iinfo(dtype).max + 1, (48, 66), dtype=dtype)


@pytest.fixture
def plug(monkeypatch, tmp_path):
    """Return what plugs a driver in and gives its device's URI."""
    opens = os.open

    def plug_in(driver):
        monkeypatch.setattr(fcntl, "ioctl", driver.ioctl)
        monkeypatch.setattr(select, "select", driver.select)
        monkeypatch.setattr(
            os, "open", lambda path, *a: os.dup(driver.memory) if path == "/dev/video9" else opens(path, *a)
        )
        return "v4l2:/dev/video9"

    return plug_in


@pytest.mark.parametrize("padding", [0, 30])
@pytest.mark.parametrize(("code", "name", "dtype"), [(b"Y16 ", "Y16", np.uint16), (b"GREY", "GREY", np.uint8)])
def test_pixels_are_exact(plug, code, name, dtype, padding):
    driver = Driver(line=padding)
    source = open_source(plug(driver) + f"?pixel_format={name}&fps=50")
    info = source.info
    assert (info.width, info.height, info.bits, info.fps) == (66, 48, np.dtype(dtype).itemsize * 8, 50.0)
    assert driver.code == code
    for _ in range(20):
        pixels = picture(dtype)
        driver.fill(pixels)
        frame = source.read(1.0)
        assert frame.pixels.dtype == dtype
        np.testing.assert_array_equal(frame.pixels, pixels)
        assert frame.lost == 0
    source.close()


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_counts_between_8_and_16_bits_are_shifted_up_and_lose_nothing(plug, bits):
    driver = Driver(codes=(b"Y%d " % bits,))
    source = V4l2Source(plug(driver))
    assert source.info.bits == 16
    pixels = picture(top=1 << bits)
    driver.fill(pixels)
    np.testing.assert_array_equal(source.read(1.0).pixels >> (16 - bits), pixels)


def test_without_a_wish_the_device_keeps_its_format_and_else_gives_its_deepest(plug):
    assert V4l2Source(plug(Driver(codes=(b"GREY", b"Y16 ")))).info.bits == 8
    assert V4l2Source(plug(Driver(codes=(b"YUYV", b"GREY", b"Y16 ")))).info.bits == 16


@pytest.mark.parametrize(
    ("flags", "exact"),
    [
        # The driver's time is that of the frame's end, on our clock: it is better than ours.
        (MONOTONIC_AT_THE_END, True),
        # That of its beginning would hide the time of its transfer.
        (MONOTONIC_AT_THE_START, False),
        # Some other clock.
        (0, False),
    ],
)
def test_the_time_of_capture_is_that_of_the_last_byte(plug, flags, exact):
    driver = Driver()
    source = V4l2Source(plug(driver))
    filled_ns = driver.fill(picture(), flags)
    asked_ns = time.monotonic_ns()
    frame = source.read(1.0)
    assert frame.camera_ns == filled_ns
    assert (frame.captured_ns == filled_ns) if exact else (frame.captured_ns >= asked_ns)


def test_the_freshest_frame_is_given_and_the_others_are_counted(plug):
    driver = Driver()
    source = V4l2Source(plug(driver))
    driver.fill(picture())
    assert source.read(1.0).lost == 0
    for _ in range(2):
        driver.fill(picture())
    last = picture()
    driver.fill(last)
    frame = source.read(1.0)
    assert frame.lost == 2
    np.testing.assert_array_equal(frame.pixels, last)


def test_after_a_stall_that_filled_every_buffer_a_new_frame_is_waited_for(plug):
    driver = Driver()
    source = V4l2Source(plug(driver))
    driver.fill(picture())
    source.read(1.0)
    for _ in range(20):
        driver.fill(picture())
    assert source.read(0.05) is None
    driver.fill(picture())
    assert source.read(1.0).lost == 20


def test_a_damaged_frame_is_not_given_but_counted(plug):
    driver = Driver()
    source = V4l2Source(plug(driver))
    driver.fill(picture())
    source.read(1.0)
    driver.fill(picture(), MONOTONIC_AT_THE_END | DAMAGED)
    assert source.read(0.05) is None
    driver.fill(picture())
    assert source.read(1.0).lost == 1


def test_frame_numbers_begin_again_without_a_loss(plug):
    driver = Driver()
    driver.number = 2**32 - 1
    source = V4l2Source(plug(driver))
    driver.fill(picture())
    source.read(1.0)
    driver.number = 0
    driver.fill(picture())
    assert source.read(1.0).lost == 0


@pytest.mark.parametrize(
    "numbers",
    [
        # Of a driver that does not count,
        (0, 0, 0),
        # that says a number twice,
        (7, 8, 8, 9),
        # and that begins again.
        (500, 501, 0, 1),
    ],
)
def test_frame_numbers_that_tell_nothing_are_no_loss(plug, numbers):
    driver = Driver()
    source = V4l2Source(plug(driver))
    for number in numbers:
        driver.number = number
        driver.fill(picture())
        assert source.read(1.0).lost == 0


def test_a_camera_that_is_pulled_out_or_falls_silent_is_an_error(plug, monkeypatch):
    driver = Driver()
    source = V4l2Source(plug(driver))
    monkeypatch.setattr(v4l2, "SILENCE_S", 0.1)
    with pytest.raises(SourceError, match=r"no whole frame for 0\.1 s"):
        source.read(5.0)
    driver.fill(picture())
    driver.fault = OSError(19, "No such device")
    with pytest.raises(SourceError, match=r"gives no more frames \(no such device\)"):
        source.read(1.0)


def test_a_camera_that_is_plugged_in_again_is_opened_again(plug, monkeypatch):
    monkeypatch.setattr(lasting, "BACKOFF_S", (0.02, 0.1))
    driver = Driver()
    uri = plug(driver)
    first = V4l2Source(uri)
    source = LastingSource(uri, first, first.info)
    driver.fill(picture())
    source.read(1.0)
    driver.fill(picture())
    driver.fault = OSError(19, "No such device")
    assert [source.read(0.05) for _ in range(3)] == [None] * 3
    driver.full.clear()
    driver.free.clear()
    driver.fault, driver.number, driver.streaming = None, 0, False
    pixels = picture()
    wait_for(lambda: source.read(0.01) or (driver.streaming and driver.fill(pixels)))
    frame = wait_for(lambda: source.read(0.1))
    np.testing.assert_array_equal(frame.pixels, pixels)
    source.close()


def test_a_closed_source_has_ended_and_its_last_frame_stays(plug):
    driver = Driver()
    source = V4l2Source(plug(driver))
    pixels = picture()
    driver.fill(pixels)
    frame = source.read(1.0)
    source.close()
    source.close()
    assert not driver.streaming
    np.testing.assert_array_equal(frame.pixels, pixels)
    with pytest.raises(EndOfSource):
        source.read(0.1)


@pytest.mark.parametrize(
    ("driver", "query", "says"),
    [
        # A device that only puts out.
        ({"caps": 0x04000002}, "", "'Test camera' gives no video stream"),
        # Colour alone.
        ({"codes": (b"YUYV",)}, "", "does not give any of Y16"),
        # A depth that it does not have.
        ({"codes": (b"GREY",)}, "?pixel_format=Y16", "does not give Y16"),
        # Another size.
        ({}, "?width=640&height=512", "offers 66x48 instead"),
    ],
)
def test_what_a_device_refuses_is_one_line(plug, driver, query, says):
    with pytest.raises(SourceError, match=says):
        open_source(plug(Driver(**driver)) + query)


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        # A device that is not there, in both ways to name it.
        ("v4l2:/dev/video99", "no such file or directory"),
        ("/dev/video99", "no such file or directory"),
        # A device of another kind.
        ("v4l2:/dev/null", "no Video4Linux device"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(uri, says):
    check_source(uri)
    with pytest.raises(SourceError, match=says):
        open_source(uri)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        # A field that does not exist; those that do are listed.
        ("exposure=3", "no field 'exposure'; a device's fields are width, height, fps, pixel_format"),
        # Numbers that are none, or not above 0.
        ("width=wide", "width=wide: a number above 0"),
        ("fps=0", "fps=0: a number above 0"),
        ("fps=nan", "fps=nan: a number above 0"),
        # A format that is not accepted.
        ("pixel_format=YUYV", "one of Y16, Y14"),
        # A field twice.
        ("fps=1&fps=2", "given twice"),
    ],
)
def test_a_bad_uri_is_one_line(query, says):
    for use in (check_source, open_source):
        with pytest.raises(SourceError, match=says) as caught:
            use(f"v4l2:/dev/video99?{query}")
        assert "\n" not in str(caught.value)


def test_structures_and_requests_are_those_of_the_kernels_headers():
    """Sizes, offsets and codes as a C compiler gives them for a 64-bit Linux."""
    sizes = [ctypes.sizeof(kind) for kind in (v4l2.Capability, v4l2.Format, v4l2.Parameters, v4l2.Request, v4l2.Buffer)]
    assert sizes == [104, 208, 204, 20, 88]
    offsets = {"flags": 12, "seconds": 24, "timecode": 40, "sequence": 56, "memory": 60, "offset": 64, "length": 72}
    assert {name: getattr(v4l2.Buffer, name).offset for name in offsets} == offsets
    assert (v4l2.Format.pixelformat.offset, v4l2.Format.bytesperline.offset) == (16, 24)
    assert v4l2.Parameters.numerator.offset == 12
    assert (v4l2.QUERYCAP, v4l2.G_FMT, v4l2.S_FMT) == (0x80685600, 0xC0D05604, 0xC0D05605)
    assert (v4l2.REQBUFS, v4l2.QUERYBUF, v4l2.QBUF, v4l2.DQBUF) == (0xC0145608, 0xC0585609, 0xC058560F, 0xC0585611)
    assert (v4l2.STREAMON, v4l2.STREAMOFF) == (0x40045612, 0x40045613)
    assert (v4l2.G_PARM, v4l2.S_PARM) == (0xC0CC5615, 0xC0CC5616)
