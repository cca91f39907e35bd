import cv2
import numpy as np
import pytest

from stream.sources import check_source, masked, open_source
from stream.sources.base import SourceError
from stream.sources.images import ImagesSource
from stream.sources.scene import SceneSource


def test_a_folder_is_a_source_of_images_that_waits(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8), np.uint8))
    check_source(str(tmp_path))
    source = open_source(str(tmp_path))
    assert isinstance(source, ImagesSource)
    assert not source.info.live
    assert open_source(str(tmp_path), live=True).info.live


def test_a_file_is_a_video_that_waits(data):
    clip = str(data / "ir-video" / "IR_DRONE_077.mp4")
    check_source(clip)
    source = open_source(clip)
    assert (source.info.width, source.info.height, source.info.fps, source.info.live) == (320, 256, 30.0, False)
    source.close()


def test_a_scene_takes_its_fields_from_the_query_and_is_live():
    uri = "scene:?seed=3&width=640&height=512&bits=16&fps=25&frames=2"
    check_source(uri)
    source = open_source(uri)
    assert isinstance(source, SceneSource)
    info = source.info
    assert (info.width, info.height, info.bits, info.fps, info.live) == (640, 512, 16, 25.0, True)
    assert not open_source(uri, live=False).info.live
    assert open_source("scene:").info.width == 320


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        # A path with nothing there.
        ("none/at/all.mp4", "no such file or folder"),
        # No path at all.
        ("", "no such file or folder"),
        # A path with a zero byte.
        ("a\0b", "no such file or folder"),
        # Two lines.
        ("a\nb", "no such file or folder"),
        # A path that is too long for any system.
        ("a" * 5000, "not a path"),
        # An unknown scheme; the accepted ones are listed.
        ("gopher://host/x", "unknown kind of source 'gopher'; give a video file"),
        # Addresses that are none.
        ("rtsp:", "not a URL"),
        ("rtsp:///path", "not a URL"),
        ("rtsp://127.0.0.1:port/", "not a URL"),
        ("rtsp://127.0.0.1/a\nb", "not a URL"),
        ("udp://127.0.0.1", "needs a port"),
        ("http://:80/", "names no host"),
        # A device that is none.
        ("v4l2:video0", "a device such as v4l2:/dev/video0"),
        # A scene's field that does not exist; those that do are listed.
        ("scene:?sead=3", "no field 'sead'; a scene's fields are seed, width"),
        # A field out of its range, and one of another type.
        ("scene:?width=3", "width=3: input should be greater than or equal to 64"),
        ("scene:?bits=12", "bits=12: input should be a multiple of 8"),
        ("scene:?fps=fast", "fps=fast: input should be a valid number"),
        # A field twice.
        ("scene:?seed=1&seed=2", "given twice"),
        # A query that is none.
        ("scene:seed", "scene:.field=value"),
        ("scene:?seed", "scene:.field=value"),
        # What a terminal would obey, as it is or in the words of an address, is written out.
        ("scene:?\x1b[31mseed=1", r"scene:\?\\x1b\[31mseed=1: no field"),
        ("scene:?seed=%0A", r"seed=\\n: input should be"),
        ("recording:no\tsuch", r"no\\tsuch: no such folder"),
    ],
)
def test_a_bad_uri_is_one_line_from_opening_and_from_checking(uri, says):
    for use in (open_source, check_source):
        with pytest.raises(SourceError, match=says) as caught:
            use(uri)
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        # An empty file.
        (lambda d: (d / "e.mp4").touch() or d / "e.mp4", "empty"),
        # A folder without images.
        (lambda d: d, "no image"),
    ],
)
def test_checking_finds_bad_files_without_decoding(tmp_path, make, says):
    with pytest.raises(SourceError, match=says):
        check_source(str(make(tmp_path)))


@pytest.mark.parametrize(
    ("uri", "right"),
    [
        # The password of a URL,
        ("rtsp://user:pass@host/1", "rtsp://user:***@host/1"),
        # with characters that should have been escaped,
        ("rtsp://user:p@ss/w:rd@host/1", "rtsp://user:***@host/1"),
        # in a path as some cameras take it,
        ("rtsp://host/user=a&password=geheim&channel=1", "rtsp://host/user=a&password=***&channel=1"),
        ("rtsp://host/user=a_password=geheim_channel=1.sdp", "rtsp://host/user=a_password=***"),
        # behind a user's name that is an address of mail, or has a slash,
        ("rtsp://me@example.com:geheim@host/1", "rtsp://me@example.com:***@host/1"),
        ("rtsp://ad/min:geheim@host/1", "rtsp://ad/min:***@host/1"),
        # in two lines,
        ("rtsp://user:ge\nheim@host/1", "rtsp://user:***@host/1"),
        # in an address within another's query,
        ("http://10.0.0.2:80/x?from=rtsp://user:geheim@host", "http://10.0.0.2:80/x?from=rtsp://user:***@host"),
        # and behind a scheme that was mistyped or forgotten.
        ("rtsp:/user:geheim@host/1", "rtsp:/user:***@host/1"),
        ("rtsp:///user:geheim@host/1", "rtsp:///user:***@host/1"),
        ("rtsp//user:geheim@host/1", "rtsp//user:***@host/1"),
        ("rtsp/user:geheim@host/1", "rtsp/user:***@host/1"),
        ("rtsp;//me@example.com:geheim@host/1", "rtsp;//me@example.com:***@host/1"),
        ("//user:geheim@host/1", "//user:***@host/1"),
        ("user:geheim@host/1", "user:***@host/1"),
        # What SRT asks for: MediaMTX takes user and password as a stream's id.
        ("srt://host:9000?passphrase=geheim", "srt://host:9000?passphrase=***"),
        ("srt://host:9000?streamid=read:x:user:geheim&latency=9", "srt://host:9000?streamid=***&latency=9"),
        # Other names for it.
        ("rtsp://host/a?pw=geheim&auth=geheim&channel=1", "rtsp://host/a?pw=***&auth=***&channel=1"),
        # Nothing else is touched.
        ("http://host:8080/a", "http://host:8080/a"),
        ("rtsp://user@host/1", "rtsp://user@host/1"),
        ("rtsp://10.0.0.2:554/live@1", "rtsp://10.0.0.2:554/live@1"),
        ("rtsp://[fe80::1]:554/live@1", "rtsp://[fe80::1]:554/live@1"),
        ("clips/a@b.mp4", "clips/a@b.mp4"),
        ("clips/10:30@b.mp4", "clips/10:30@b.mp4"),
        ("/data/10:30@b.mp4", "/data/10:30@b.mp4"),
        ("recording:kept/10:30@b", "recording:kept/10:30@b"),
    ],
)
def test_secrets_are_masked(uri, right):
    assert masked(uri) == right


@pytest.mark.parametrize(
    "uri",
    [
        # Nobody answers.
        "rtsp://user:geheim@127.0.0.1:1/1",
        # The address ends at the slash, and what is before it passes for a port.
        "rtsp://user:geheim/1@127.0.0.1:1/1",
        # No kind of source.
        "user:geheim@127.0.0.1/1",
        "user:geheim\n@127.0.0.1/1",
        "rstp//user:geheim@127.0.0.1/1",
    ],
)
def test_an_error_does_not_tell_a_password(uri):
    with pytest.raises(SourceError) as caught:
        open_source(uri)
    assert "geheim" not in str(caught.value)
