"""Labelled video: what counts as found, what as false, and what is not a folder of clips."""

import av
import numpy as np
import pytest

from training.clips import ClipTally, frames_of, read_clips
from training.finder import EvaluateError


def dots(*places):
    found = np.zeros((60, 80), bool)
    for x, y in places:
        found[y : y + 2, x : x + 2] = True
    return found


BOX = [(10.0, 20.0, 8.0, 8.0)]  # its centre is at 14, 24
CASES = [
    ("a component in the box finds it", [(dots((13, 23)), BOX)], (1, 0, 0)),
    ("one beside it does not", [(dots((20, 23)), BOX)], (0, 1, 0)),
    ("two in the box are no false one", [(dots((11, 21), (15, 25)), BOX)], (1, 0, 0)),
    ("one at the frame's edge is the border's and others' alike", [(dots((13, 23), (78, 30)), BOX)], (1, 1, 1)),
    ("a target at the edge is not the border's", [(dots((0, 0)), [(0.0, 0.0, 6.0, 6.0)])], (1, 0, 0)),
    ("a frame without a box is not one to find in", [(dots((30, 30)), []), (dots((13, 23)), BOX)], (1, 0.5, 0)),
    ("nothing there, nothing found", [(dots(), [])], (0, 0, 0)),
]


@pytest.mark.parametrize(("why", "frames", "want"), CASES, ids=[c[0] for c in CASES])
def test_counts(why, frames, want):
    """Share found, other components a frame, the border's a frame."""
    tally = ClipTally()
    for found, boxes in frames:
        one = ClipTally()
        one.add(found, boxes)
        tally.merge(one)
    figures = tally.report()
    per_frame = figures["other_components_per_frame"], figures["border_components_per_frame"]
    assert (figures["found"], *per_frame) == want


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
    (clip,) = read_clips(folder, [])
    frames = list(frames_of(clip, 2))
    assert [number for number, _ in frames] == [0, 2, 4]
    for number, frame in frames:
        assert (frame.shape, frame.dtype) == ((48, 64), np.uint8)
        assert frame.mean() == pytest.approx(40 * number, abs=2)
    assert clip.boxes == {0: [(1, 2, 3, 4)], 2: [(5, 6, 7, 8), (9, 9, 9, 9)]}


BAD = [
    ("no list", lambda f: (f / "clips.csv").unlink(), [], "clips.csv: no such file; --clips takes a folder"),
    ("a list of something else", lambda f: (f / "clips.csv").write_text("a,b\n1,2\n"), [], "clips.csv: no column clip"),
    ("an empty list", lambda f: (f / "clips.csv").write_text("clip\n"), [], "clips.csv: names no clip"),
    ("a clip that is not listed", lambda _: None, ["two"], "--clip two: not in"),
    ("no video", lambda f: (f / "one.mp4").unlink(), [], "one.mp4: no such file"),
    ("no labels", lambda f: (f / "one.csv").unlink(), [], "one.csv: no such file"),
    ("labels cut short", lambda f: (f / "one.csv").write_text("frame,x,y,w,h\n0,1\n"), [], "one.csv: line 2 is not"),
    ("no video in the file", lambda f: (f / "one.mp4").write_text("no"), [], "one.mp4: not a video"),
]


@pytest.mark.parametrize(("why", "damage", "names", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_folders(why, damage, names, error, folder):
    """One line that names the file."""
    damage(folder)
    with pytest.raises(EvaluateError, match=error) as caught:
        [list(frames_of(clip, 1)) for clip in read_clips(folder, names)]
    assert "\n" not in str(caught.value)


def test_a_clip_of_the_data(data):
    """IR_DRONE_023 has 303 frames of 320x256, a box in each."""
    (clip,) = read_clips(data / "ir-video", ["IR_DRONE_023"])
    frames = list(frames_of(clip, 100))
    assert [number for number, _ in frames] == [0, 100, 200, 300]
    assert {frame.shape for _, frame in frames} == {(256, 320)}
    assert len(clip.boxes) == 303
