"""Labelled video is read with its boxes, and what is not a folder of clips is refused."""

import av
import numpy as np
import pytest

from training.labelled_video import frames_of, read_clips
from training.sample import DataError


@pytest.fixture
def folder(tmp_path):
    """A folder of one clip of 6 frames, each as bright as its number times 40."""
    with av.open(str(tmp_path / "one.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "0"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64), 40 * number, np.uint8), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (tmp_path / "clips.csv").write_text("clip,class\none,drone\n")
    (tmp_path / "one.csv").write_text("frame,x,y,w,h\n0,1,2,3,4\n2,5,6,7,8\n2,9,9,9,9\n")
    return tmp_path


def test_every_nth_frame_with_its_boxes(folder):
    """Numbers, pixels over the full range and boxes belong together."""
    (clip,) = read_clips(folder)
    frames = list(frames_of(clip, 2))
    assert [number for number, _ in frames] == [0, 2, 4]
    for number, frame in frames:
        assert (frame.shape, frame.dtype) == ((48, 64), np.uint8)
        assert frame.mean() == pytest.approx(40 * number, abs=2)
    assert clip.boxes == {0: [(1, 2, 3, 4)], 2: [(5, 6, 7, 8), (9, 9, 9, 9)]}


FIRST, OTHER, LATE = "frame,x,y,w,h\n", "a,b\n1,2\n", "9,1,2,3,4\n"
BAD = [
    ("no list", lambda f: (f / "clips.csv").unlink(), None, "clips.csv: no such file; labelled video is"),
    (
        "a list of something else",
        lambda f: (f / "clips.csv").write_text(OTHER),
        None,
        "clips.csv: no column 'clip'",
    ),
    ("an empty list", lambda f: (f / "clips.csv").write_text("clip\n"), None, "clips.csv: names no clip"),
    ("a clip that is not listed", lambda _: None, ["two"], "clips.csv: no clip 'two' in it"),
    ("no video", lambda f: (f / "one.mp4").unlink(), None, "one.mp4: no such file"),
    ("no labels", lambda f: (f / "one.csv").unlink(), None, "one.csv: not a readable CSV"),
    ("labels cut short", lambda f: (f / "one.csv").write_text(FIRST + "0,1\n"), None, "one.csv: line 2 is not"),
    (
        "a box that is no number",
        lambda f: (f / "one.csv").write_text(FIRST + "0,nan,1,2,3\n"),
        None,
        "one.csv: line 2: ",
    ),
    ("a box without an end", lambda f: (f / "one.csv").write_text(FIRST + "0,1,1,inf,3\n"), None, "one.csv: line 2: "),
    (
        "a box turned over",
        lambda f: (f / "one.csv").write_text(FIRST + "0,20,9,-12,3\n"),
        None,
        "one.csv: line 2: a frame",
    ),
    (
        "a frame before the first",
        lambda f: (f / "one.csv").write_text(FIRST + "-1,1,1,2,3\n"),
        None,
        "one.csv: line 2: ",
    ),
    (
        "boxes of a larger video",
        lambda f: (f / "one.csv").write_text(FIRST + "2,500,9,5,5\n"),
        None,
        r"one.csv: frame 2: its box at 500,9 lies outside the video's 64x48",
    ),
    (
        "a video cut short",
        lambda f: (f / "one.csv").write_text(FIRST + LATE),
        None,
        "has a box for frame 9",
    ),
    ("no video in the file", lambda f: (f / "one.mp4").write_text("no"), None, "one.mp4: not a video"),
]


@pytest.mark.parametrize(("why", "damage", "names", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_folders(why, damage, names, error, folder):
    """One line that names the file."""
    damage(folder)
    with pytest.raises(DataError, match=error) as caught:
        [list(frames_of(clip, 1)) for clip in read_clips(folder, names)]
    assert "\n" not in str(caught.value)


def test_a_clip_of_the_data(data):
    """IR_DRONE_023 has 303 frames of 320x256, a box in each."""
    (clip,) = read_clips(data / "ir-video", ["IR_DRONE_023"])
    frames = list(frames_of(clip, 100))
    assert [number for number, _ in frames] == [0, 100, 200, 300]
    assert {frame.shape for _, frame in frames} == {(256, 320)}
    assert len(clip.boxes) == 303
