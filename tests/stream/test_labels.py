"""Labelled clips: boxes beside videos."""

from pathlib import Path

import pytest

from stream.labels import Box, LabelError, read_clips


def clip(folder: Path, name: str, rows: str = "0,10,20,4,6\n0,1,2,3,4\n2,11,20,4,6\n") -> None:
    (folder / f"{name}.mp4").touch()
    (folder / f"{name}.csv").write_text("frame,x,y,w,h\n" + rows)


def test_a_folder_gives_its_labelled_videos_by_name(tmp_path):
    """A video without a CSV, and a CSV without a video, are no clips; two boxes may share a frame."""
    for name in ("b", "a"):
        clip(tmp_path, name)
    (tmp_path / "bare.mp4").touch()
    (tmp_path / "clips.csv").write_text("clip\na\n")
    clips = read_clips(tmp_path)
    assert [c.name for c in clips] == ["a", "b"]
    assert clips[0].boxes == {0: [Box(10, 20, 4, 6), Box(1, 2, 3, 4)], 2: [Box(11, 20, 4, 6)]}
    assert [c.name for c in read_clips(tmp_path, ["b"])] == ["b"]


PLACES = [
    ("the middle", 11.5, 22.5, 0, True),
    ("the middle of the box's first pixel", 10, 20, 0, True),
    ("half a pixel outside of it", 9.4, 20, 0, False),
    ("outside, but less than it is grown by", 7, 20, 3, True),
    ("further", 6.4, 20, 3, False),
    ("below", 11, 29.1, 3, False),
]


@pytest.mark.parametrize(("where", "x", "y", "grown", "inside"), PLACES, ids=[c[0] for c in PLACES])
def test_a_box_counts_from_the_frames_corner_and_positions_from_its_first_pixels_centre(where, x, y, grown, inside):
    """The two conventions differ by half a pixel."""
    box = Box(10, 20, 4, 6)
    assert box.holds(x, y, grown) is inside
    assert box.centre == (11.5, 22.5)


def test_what_cannot_be_used_is_named(tmp_path):
    """A folder that is missing or empty, a clip that is not there, a line that is not a box."""
    with pytest.raises(LabelError, match="no such folder"):
        read_clips(tmp_path / "none")
    with pytest.raises(LabelError, match="holds no video"):
        read_clips(tmp_path)
    clip(tmp_path, "bad", "")
    (tmp_path / "bad.csv").write_text("")
    with pytest.raises(LabelError, match=r"bad\.csv: line 1: no frame, x, y, w, h; a header"):
        read_clips(tmp_path)
    clip(tmp_path, "bad", "0,1,2,3\n")
    with pytest.raises(LabelError, match=r"bad\.csv: line 2: frame,x,y,w,h"):
        read_clips(tmp_path)
    (tmp_path / "bad.mkv").touch()
    with pytest.raises(LabelError, match=r"bad\.mp4: bad\.mkv has the same stem"):
        read_clips(tmp_path)
    (tmp_path / "bad.mkv").unlink()
    with pytest.raises(LabelError, match="other: no video"):
        read_clips(tmp_path, ["other"])
