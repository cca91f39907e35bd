"""The evaluation command, over the real pipeline."""

import contextlib
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import pytest

from stream.record_run import run_pipeline

CLIP = "IR_AIRPLANE_035"
BESIDE = (CLIP, "IR_DRONE_077", "IR_HELICOPTER_044", "IR_AIRPLANE_017")


def evaluate(*arguments):
    command = [sys.executable, "-m", "stream.evaluate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)


@pytest.fixture(scope="module")
def short_clips(data, tmp_path_factory):
    """The first 60 frames of four real clips, so that the whole takes seconds."""
    folder = tmp_path_factory.mktemp("clips")
    for name in BESIDE:
        with (
            av.open(str(data / "ir-video" / f"{name}.mp4")) as source,
            av.open(str(folder / f"{name}.mkv"), "w") as target,
        ):
            out = target.add_stream("ffv1", rate=30)
            out.width, out.height, out.pix_fmt = 320, 256, "gray"
            for index, frame in enumerate(source.decode(video=0)):
                if index == 60:
                    break
                target.mux(out.encode(frame.reformat(format="gray")))
            target.mux(out.encode(None))
        rows = (data / "ir-video" / f"{name}.csv").read_text().splitlines()
        (folder / f"{name}.csv").write_text("\n".join(rows[:61]) + "\n")
    return folder


def test_clips_are_scored_and_drawn(short_clips, tmp_path):
    """Figures for each clip and in all, two tables, a picture and a video of every frame."""
    pytest.importorskip("matplotlib")
    done = evaluate(
        "--clips", short_clips, "--clip", CLIP, "--clip", "IR_DRONE_077", "--json", "-",
        "--csv", tmp_path / "csv", "--picture", tmp_path / "pr.png", "--video", tmp_path / "v.mp4",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert set(result["clips"]) == {CLIP, "IR_DRONE_077"}
    assert result["total"]["frames"] == 120
    assert result["clips"][CLIP]["track_recall"] > 0.8
    for key in ("detection_recall", "false_components_per_frame", "false_tracks_per_minute", "id_switches"):
        assert key in result["total"]
    with (tmp_path / "csv" / "frames.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 120
    assert cv2.imread(str(tmp_path / "pr.png")) is not None
    with av.open(str(tmp_path / "v.mp4")) as video:
        assert sum(1 for _ in video.decode(video=0)) == 120


def test_other_trackers_are_scored_on_the_same_detections(short_clips):
    for package in ("stonesoup", "trackers"):
        pytest.importorskip(package, reason="not installed (the compare extra)")
    done = evaluate("--clips", short_clips, "--clip", CLIP, "--against", "stonesoup,bytetrack", "--json", "-")
    assert done.returncode == 0, done.stderr
    against = json.loads(done.stdout)["against"]
    assert set(against) == {"stonesoup", "bytetrack"}
    for name, figures in against.items():
        assert figures["frames"] == 60, name
        assert figures["track_recall"] > 0.5, name


def test_a_clip_alone_beside_three_others_and_in_batches_of_one_or_eight_gives_identical_tracks(short_clips, tmp_path):
    """Every message of a stream is the same, whatever runs beside it and however frames share the engine."""

    def tracks(names, batch):
        config = tmp_path / f"{batch}.yaml"
        config.write_text(f"streams: []\nbatch: {{largest: {batch}, window_ms: {20 if batch > 1 else 0}}}\n")
        streams = [{"name": name, "source": str(short_clips / f"{name}.mkv"), "live": False} for name in names]
        record = run_pipeline(streams, config, None, None)[CLIP]
        return [(message.seq, message.tracks) for message in record.tracks]

    alone = tracks([CLIP], 1)
    assert len(alone) == 60
    assert any(track.state == "confirmed" for _, found in alone for track in found)
    assert tracks(BESIDE, 1) == alone
    assert tracks(BESIDE, 8) == alone


def test_a_video_shorter_than_its_labels_is_refused(short_clips, tmp_path):
    """Frames that never came are not left out in silence."""
    (tmp_path / f"{CLIP}.mkv").write_bytes((short_clips / f"{CLIP}.mkv").read_bytes())
    (tmp_path / f"{CLIP}.csv").write_text((short_clips / f"{CLIP}.csv").read_text() + "99,10,10,4,4\n")
    done = evaluate("--clips", tmp_path)
    assert done.returncode == 2
    assert f"{CLIP}.mkv: 60 frames, but a box for frame 99" in done.stderr


def descendants(pid):
    """Return the command lines of a process's children, theirs, and so on."""
    names = []
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(OSError):  # it has ended
            names += [Path(f"/proc/{child}/cmdline").read_text(), *descendants(child)]
    return names


def test_an_interrupted_run_reports_no_figures(short_clips):
    """Ctrl-C in the middle is not a short clip."""
    command = [sys.executable, "-m", "stream.evaluate", "--clips", str(short_clips), "--together", "1", "--json", "-"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not any(name.startswith("irstream capture") for name in descendants(started.pid)):
        assert time.monotonic() < end
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert started.returncode == 1
    assert out == ""
    assert "interrupted" in err


def test_scenes_are_scored_against_exact_truth():
    done = evaluate("--scenes", "1:1", "--scene-seconds", 2, "--json", "-")
    assert done.returncode == 0, done.stderr
    score = json.loads(done.stdout)["scenes"]["scene_1"]
    assert {"hota", "deta", "assa", "mota", "idf1"} <= set(score)
    assert score["truths"] > 0


MISTAKES = [
    ("nothing to measure on", [], "--clips FOLDER or --scenes FIRST:LAST is needed"),
    ("a folder that is not there", ["--clips", "nowhere"], "nowhere: no such folder"),
    ("seeds that are none", ["--scenes", "three"], "FIRST:LAST is expected"),
    ("a tracker that is not known", ["--scenes", "0:0", "--against", "mine"], "--against mine: not one of"),
    ("our own tracker against itself", ["--scenes", "0:0", "--against", "ours"], "--against ours: not one of"),
    ("clips' options without clips", ["--scenes", "0:0", "--video", "v.mp4"], "--video goes with --clips"),
    ("a picture of no known kind", ["--clips", ".", "--picture", "p.xyz"], "a name that ends in .png is expected"),
    ("figures to nowhere", ["--scenes", "0:0", "--json", "none/r.json"], "--json none/r.json: its folder does not"),
    ("a model that is not there", ["--scenes", "0:0", "--model", "none"], "none"),
]


@pytest.mark.parametrize(("mistake", "arguments", "said"), MISTAKES, ids=[c[0] for c in MISTAKES])
def test_a_mistake_is_one_line(mistake, arguments, said):
    done = evaluate(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
