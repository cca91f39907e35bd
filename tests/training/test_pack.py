"""What is packed is read again exactly, and a packed file that is not right is refused by name."""

import json
import zipfile

import av
import numpy as np
import pytest
from typer.testing import CliRunner

import training.pack
from training.data import read_parts, read_split
from training.pack import pack
from training.packed import Packed, read_packed, write_packed
from training.recipe import DataRecipe, Recipe
from training.sample import DataError, Sample
from training.sets import read_video


def same(one, two):
    assert [s.name for s in one] == [s.name for s in two]
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.frame, b.frame)
        assert np.array_equal(a.mask, b.mask)
        assert (a.mask.dtype, a.boxes) == (b.mask.dtype, b.boxes)


@pytest.fixture
def samples():
    """Frames of several sizes, of noise and of one value, with and without targets and boxes."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(12):
        shape = tuple(rng.integers(8, 70, 2))
        frame = rng.integers(0, 256 if index % 3 else 1, shape, np.uint8)
        mask = rng.random(shape) < (0.3 if index % 2 else 0)
        made.append(Sample(f"clip_{index}/{index:06}", frame, mask, ((1, 2, 3, 4),) * (index % 4)))
    return made


def test_the_round_trip_is_exact(samples, tmp_path):
    """Names, pixels, masks and boxes come back, in their order, from however many files."""
    for largest, count in ((1 << 20, 1), (9000, 3)):
        paths = write_packed(tmp_path / "set", "train", Packed(samples, 5, ["b", "a"], True), largest=largest)
        assert len(paths) >= count
        assert all(path.stat().st_size <= largest for path in paths)
        back = read_packed(tmp_path / "set", "train")
        same(back.samples, samples)
        assert (back.every, back.clips, back.all_clips) == (5, ("b", "a"), True)
        same(read_split(tmp_path / "set", "train"), samples)


def test_the_same_samples_make_the_same_bytes(samples, tmp_path):
    """No time of day is in them."""
    (one,), (two,) = (write_packed(tmp_path / name, "train", Packed(samples)) for name in "ab")
    assert one.read_bytes() == two.read_bytes()


def test_packing_again_leaves_nothing_old(samples, tmp_path):
    """Fewer files take the place of many."""
    assert len(write_packed(tmp_path, "train", Packed(samples), largest=9000)) > 1
    write_packed(tmp_path, "train", Packed(samples[:2]))
    same(read_split(tmp_path, "train"), samples[:2])


def rewrite(path, change):
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)


def say(**keys):
    def change(entries):
        entries["index.json"] = json.dumps(json.loads(entries["index.json"]) | keys).encode()

    return change


BREAKS = [
    ("half a file", lambda p: p.write_bytes(p.read_bytes()[:-200]), "not a readable packed split"),
    ("another file", lambda p: p.write_text("x"), "not a readable packed split"),
    ("another format", lambda p: rewrite(p, say(format="else/1")), "packed as 'else/1'; 'irstream.packed/1' is read"),
    ("a part that is missing", lambda p: rewrite(p, say(parts=2)), "part 1 of 2; 1 are there"),
    ("a frame that is missing", lambda p: rewrite(p, lambda e: e.pop("frames/1.png")), "frames/1.png"),
    ("a frame that is no image", lambda p: rewrite(p, lambda e: e.update({"frames/1.png": b"x"})), "no image"),
    ("a mask of another size", lambda p: rewrite(p, lambda e: e.update({"masks/1.png": e["frames/0.png"]})), "size"),
    ("no index", lambda p: rewrite(p, lambda e: e.pop("index.json")), "not a readable packed split"),
    ("an index that is none", lambda p: rewrite(p, lambda e: e.update({"index.json": b"[]"})), "not a readable"),
]


@pytest.mark.parametrize(("why", "spoil", "said"), BREAKS, ids=[c[0] for c in BREAKS])
def test_a_packed_split_that_is_damaged_is_refused(why, spoil, said, samples, tmp_path):
    """The error is one line that names the file."""
    (path,) = write_packed(tmp_path, "train", Packed(samples))
    spoil(path)
    with pytest.raises(DataError, match=said) as caught:
        read_split(tmp_path, "train")
    assert "train-000.zip" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_recipe_trains_from_packed_files_as_from_images(tiny_set, tmp_path):
    """The same frames in the same order, set aside and held out alike; scenes need no file."""
    parts = [
        DataRecipe(set="dots", set_aside=3, repeat=2),
        DataRecipe(set="dots", split="test"),
        DataRecipe(set="scene", frames=3),
    ]
    paths = pack(Recipe(name="r", steps=1, data=parts), [], tiny_set.parent, tmp_path)
    assert [str(path.relative_to(tmp_path)) for path in paths] == ["dots/train-000.zip", "dots/test-000.zip"]
    for one, two in zip(read_parts(parts, tiny_set.parent, 10), read_parts(parts, tmp_path, 10), strict=True):
        assert len(one) == len(two) > 0
        same([s for s in one if isinstance(s, Sample)], [s for s in two if isinstance(s, Sample)])


def test_the_command_packs_and_says_what(tiny_set, tmp_path):
    """A line a file with its size; what is wrong is one line on stderr."""
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("{name: r, steps: 1, data: [{set: dots}]}")
    app = training.pack.typer.Typer()
    app.command()(training.pack.main)
    arguments = [str(recipe), "--data", str(tiny_set.parent), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, [*arguments, "--also", "dots:test"])
    assert done.exit_code == 0
    packed = [line.split()[0].rpartition("/")[2] for line in done.stdout.splitlines()]
    assert packed == ["test-000.zip", "train-000.zip"]  # what was typed first, for it may not be there
    lost = CliRunner().invoke(app, [*arguments, "--also", "nothing:test"])
    assert lost.exit_code == 2
    assert "nothing" in lost.stderr
    drawn = CliRunner().invoke(app, [*arguments, "--also", "scene:test"])
    assert drawn.exit_code == 2
    assert "--also scene: a scene is drawn, not read" in drawn.stderr


def test_packed_clips_give_the_frames_they_hold(data, tmp_path):
    """Fewer clips and frames can be asked for than were packed, not more."""
    clips = ["IR_DRONE_032", "IR_DRONE_019"]  # not sorted
    parts = [DataRecipe(set="ir-video", clips=clips[:1], every=80), DataRecipe(set="ir-video", clips=clips, every=120)]
    paths = pack(Recipe(name="r", steps=1, data=parts), [], data, tmp_path)
    assert [path.name for path in paths] == ["video-000.zip"]
    for part in parts:
        same(
            read_video(tmp_path / "ir-video", part.clips, part.every),
            read_video(data / "ir-video", part.clips, part.every),
        )
    with pytest.raises(DataError, match="packed with every 40th frame of a clip; every 20th"):
        read_video(tmp_path / "ir-video", clips, 20)
    with pytest.raises(DataError, match="clip 'IR_DRONE_050' is not among those packed"):
        read_video(tmp_path / "ir-video", ["IR_DRONE_050"], 40)
    with pytest.raises(DataError, match=r"ir-video/video-000.zip: not packed with all clips of the set"):
        read_video(tmp_path / "ir-video", None, 40)


@pytest.fixture
def sky(tmp_path):
    """A set of two clips, whose names sort otherwise than their frames' names do; a target in a corner and one not."""
    folder = tmp_path / "data" / "sky"
    folder.mkdir(parents=True)
    (folder / "clips.csv").write_text("clip\nb\nb-1\n")
    image = np.full((48, 64), 60, np.uint8)
    image[0:5, 0:5] = image[22:27, 30:35] = 220
    for name in ("b", "b-1"):
        (folder / f"{name}.csv").write_text("frame,x,y,w,h\n0,0,0,6,6\n0,28,20,10,9\n2,28,20,10,9\n")
        with av.open(str(folder / f"{name}.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=30, width=64, height=48, pix_fmt="yuv420p")
            stream.options = {"crf": "0"}
            for _ in range(3):
                frame = av.VideoFrame.from_ndarray(image, format="gray").reformat(format="yuv420p")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    return folder


def test_a_pack_of_all_clips_is_read_without_their_names(sky, tmp_path):
    """Also when it was packed again; targets in boxes are looked for by who reads, so both readings are there."""
    parts = [DataRecipe(set="sky", every=2, box_targets=True), DataRecipe(set="sky", clips=["b-1"], every=2)]
    recipe = Recipe(name="r", steps=1, data=parts)
    pack(recipe, [], sky.parent, tmp_path / "one")
    pack(recipe, [], tmp_path / "one", tmp_path / "two")
    for folder in (tmp_path / "one" / "sky", tmp_path / "two" / "sky"):
        for clips in (None, ["b-1", "b"], ["b"]):
            for targets in (False, True):
                same(read_video(folder, clips, 2, targets), read_video(sky, clips, 2, targets))
    assert [sample.name for sample in read_video(sky, None, 2)] == ["b/000000", "b/000002", "b-1/000000", "b-1/000002"]


def test_a_box_at_the_edge_of_the_frame_stays_unknown(sky):
    """Its margin is cut off there: a mask would be of another box."""
    first, second = read_video(sky, ["b"], 2, targets=True)
    assert first.boxes == ((0, 0, 10, 10),)
    assert second.boxes == ()
    for sample in (first, second):
        assert sample.mask.sum() == sample.mask[21:28, 29:36].sum() > 0
