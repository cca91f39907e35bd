import csv
from fractions import Fraction

import av
import numpy as np
import pytest

from stream.sources import BEHIND_NS
from stream.sources.base import EndOfSource, SourceError
from stream.sources.video import VideoSource


def write(path, frames, codec, pix_fmt, fps=25, pts=None, audio=False):
    """Write gray arrays as a video: ``pix_fmt`` of the same depth, exactly if the codec is lossless."""
    with av.open(str(path), "w") as out:
        video = out.add_stream(codec, rate=fps)
        video.height, video.width = frames[0].shape
        video.pix_fmt = pix_fmt
        video.codec_context.time_base = Fraction(1, 1000) if pts else Fraction(1, fps)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="gray" if pixels.dtype == np.uint8 else "gray16le")
            if not pix_fmt.startswith("gray"):
                frame = frame.reformat(format=pix_fmt)
            frame.pts = pts[index] if pts else index
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    return path


def noise(count, dtype=np.uint8, height=48, width=66, top=None):
    rng = np.random.default_rng(0)
    return [rng.integers(0, top or np.iinfo(dtype).max + 1, (height, width)).astype(dtype) for _ in range(count)]


def drain(source):
    """Return every frame, and the error that ended them or None."""
    frames = []
    try:
        while True:
            frames.append(source.read(1.0))
    except EndOfSource:
        return frames, None
    except SourceError as error:
        return frames, error
    finally:
        source.close()


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "dtype"),
    [
        # 16-bit gray comes back bit for bit through FFV1.
        ("a.mkv", "ffv1", "gray16le", np.uint16),
        # So does 8-bit gray through FFV1,
        ("a.mkv", "ffv1", "gray", np.uint8),
        # and uncompressed in an AVI.
        ("a.avi", "rawvideo", "gray", np.uint8),
        # Big-endian samples come out in the machine's own order.
        ("a.nut", "rawvideo", "gray16be", np.uint16),
    ],
)
def test_gray_is_exact(tmp_path, name, codec, pix_fmt, dtype):
    frames = noise(5, dtype)
    path = write(tmp_path / name, frames, codec, pix_fmt)
    source = VideoSource(path, live=False)
    assert (source.info.width, source.info.height, source.info.bits) == (66, 48, np.dtype(dtype).itemsize * 8)
    read, error = drain(source)
    assert error is None
    assert len(read) == 5
    for frame, pixels in zip(read, frames, strict=True):
        assert frame.pixels.dtype == dtype
        np.testing.assert_array_equal(frame.pixels, pixels)


@pytest.mark.parametrize("depth", [10, 12, 14])
def test_gray_between_8_and_16_bits_is_shifted_up_and_loses_nothing(tmp_path, depth):
    path = tmp_path / "a.mkv"
    counts = noise(2, np.uint16, top=1 << depth)
    with av.open(str(path), "w") as out:
        video = out.add_stream("ffv1", rate=25)
        video.height, video.width, video.pix_fmt = *counts[0].shape, f"gray{depth}le"
        for index, pixels in enumerate(counts):
            frame = av.VideoFrame.from_ndarray(pixels, format=f"gray{depth}le")
            frame.pts = index
            out.mux(video.encode(frame))
        out.mux(video.encode(None))
    read, error = drain(VideoSource(path, live=False))
    assert error is None
    for frame, pixels in zip(read, counts, strict=True):
        np.testing.assert_array_equal(frame.pixels >> (16 - depth), pixels)


def test_limited_range_yuv_is_stretched_to_all_grey_levels(tmp_path):
    ramp = np.tile(np.arange(256, dtype=np.uint8), (16, 1))
    (frame,), _ = drain(VideoSource(write(tmp_path / "a.mkv", [ramp], "ffv1", "yuv420p"), live=False))
    assert np.abs(frame.pixels.astype(int) - ramp).max() <= 1  # 220 values carry 256


def test_full_range_yuv_is_its_luma_plane(tmp_path):
    path = write(tmp_path / "a.avi", noise(3), "mjpeg", "yuvj420p")
    with av.open(str(path)) as file:
        planes = [
            np.frombuffer(memoryview(f.planes[0]), np.uint8).reshape(-1, f.planes[0].line_size)[:48, :66].copy()
            for f in file.decode(video=0)
        ]
    read, _ = drain(VideoSource(path, live=False))
    for frame, plane in zip(read, planes, strict=True):
        np.testing.assert_array_equal(frame.pixels, plane)


def test_gray_stored_as_colour_keeps_its_levels(tmp_path):
    frames = noise(2)
    read, _ = drain(VideoSource(write(tmp_path / "a.avi", frames, "rawvideo", "bgr24"), live=False))
    for frame, pixels in zip(read, frames, strict=True):
        np.testing.assert_array_equal(frame.pixels, pixels)


def test_every_frame_of_every_real_clip_is_read(data):
    with (data / "ir-video" / "clips.csv").open() as file:
        clips = list(csv.DictReader(file))
    for clip in clips:
        frames, error = drain(VideoSource(data / "ir-video" / f"{clip['clip']}.mp4", live=False))
        assert error is None, clip["clip"]
        assert len(frames) == int(clip["frames"]), clip["clip"]
        steps = np.diff([frame.camera_ns for frame in frames])
        assert np.all(np.abs(steps - 1e9 / float(clip["fps"])) < 2e5), clip["clip"]


def intact(tmp_path, name, count=60):
    codec, pix_fmt = {"mkv": ("ffv1", "gray16le"), "avi": ("mjpeg", "yuvj420p")}.get(name[-3:], ("libx264", "yuv420p"))
    return write(tmp_path / name, noise(count, np.uint16 if "16" in pix_fmt else np.uint8), codec, pix_fmt)


def faststart(path, to):
    """Copy an MP4 with its index before its frames, as files made for the web have it."""
    with av.open(str(path)) as given, av.open(str(to), "w", options={"movflags": "faststart"}) as out:
        video = out.add_stream_from_template(given.streams.video[0])
        for packet in given.demux(video=0):
            if packet.dts is not None:
                packet.stream = video
                out.mux(packet)
    return to


@pytest.mark.parametrize("share", [0.4, 0.9])
@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.ts", "fast.mp4"])
def test_a_file_that_is_cut_gives_its_frames_and_then_an_error_with_the_frame(tmp_path, name, share):
    path = intact(tmp_path, name) if name != "fast.mp4" else faststart(intact(tmp_path, "a.mp4"), tmp_path / name)
    whole, error = drain(VideoSource(path, live=False))
    assert (len(whole), error) == (60, None)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    frames, error = drain(VideoSource(path, live=False))
    assert 0.3 * 60 * share < len(frames) < 60
    for frame, right in zip(frames, whole, strict=False):
        np.testing.assert_array_equal(frame.pixels, right.pixels)
    assert str(path) in str(error)
    assert str(len(frames)) in str(error) or str(len(frames) - 1) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        # A file that is not there.
        (lambda d: d / "none.mp4", "no such file"),
        # A folder for a file.
        (lambda d: d, "folder"),
        # A file of no bytes.
        (lambda d: _put(d / "e.mp4", b""), "empty"),
        # Something else than video.
        (lambda d: _put(d / "t.mp4", b"hello\n" * 500), "not a video"),
        # An MP4 cut off before the index at its end.
        (lambda d: _put(d / "c.mp4", intact(d, "a.mp4").read_bytes()[:9000]), "cut off"),
        # A playlist, which would make FFmpeg wait and fetch.
        (lambda d: _put(d / "p.m3u8", b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n"), "a playlist"),
        # A description of a stream on the network.
        (lambda d: _put(d / "p.sdp", b"v=0\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"), "FFmpeg|opened"),
        # Sound alone.
        (lambda d: _sound(d / "s.wav"), "no video"),
    ],
)
def test_what_cannot_be_opened_is_named_in_one_line(tmp_path, make, says):
    path = make(tmp_path)
    with pytest.raises(SourceError, match=says) as caught:
        VideoSource(path, live=False)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def _put(path, content):
    path.write_bytes(content)
    return path


def _sound(path):
    with av.open(str(path), "w") as out:
        sound = out.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        out.mux(sound.encode(frame))
        out.mux(sound.encode(None))
    return path


def test_live_frames_are_captured_when_their_time_of_presentation_is_due(tmp_path, clock):
    times = [0, 40, 60, 200, 240]
    source = VideoSource(write(tmp_path / "a.mkv", noise(5), "ffv1", "gray", pts=times), live=True)
    start = clock.ns
    frames, error = drain(source)
    assert error is None
    assert [(frame.captured_ns - start) // 1_000_000 for frame in frames] == times
    assert [frame.camera_ns // 1_000_000 for frame in frames] == times
    assert clock.ns - start >= 240_000_000


def test_a_read_that_times_out_loses_nothing(tmp_path, clock):
    source = VideoSource(write(tmp_path / "a.mkv", noise(3), "ffv1", "gray", fps=10), live=True)
    start, frames, nones = clock.ns, [], 0
    while len(frames) < 3:
        frame = source.read(0.03)
        nones += frame is None
        frames += [frame] if frame else []
    assert nones == 6
    for index, (frame, pixels) in enumerate(zip(frames, noise(3), strict=True)):
        np.testing.assert_array_equal(frame.pixels, pixels)
        assert frame.captured_ns - start == index * 100_000_000


def test_a_reader_that_stood_still_gets_the_present_and_the_count_of_what_it_missed(tmp_path, clock):
    source = VideoSource(write(tmp_path / "a.mkv", noise(60), "ffv1", "gray", fps=10), live=True)
    source.read(1.0)
    clock.ns += 3_000_000_000
    frame = source.read(1.0)
    assert clock.ns - frame.captured_ns <= BEHIND_NS
    rest, error = drain(source)
    assert error is None
    assert 2 + frame.lost + len(rest) == 60


def test_a_closed_source_has_ended(tmp_path):
    source = VideoSource(write(tmp_path / "a.mkv", noise(3), "ffv1", "gray"), live=False)
    source.close()
    source.close()
    with pytest.raises(EndOfSource):
        source.read(1.0)
