"""A recording is the run again: its messages are published as they were, and its frames give the same tracks."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import msgpack
import numpy as np
import pytest
import zmq

from stream.publish import free_endpoint
from stream.record import find_streams, read_frames, segments
from stream.replay import recorded_messages
from stream.sources import check_source, open_source
from stream.sources.base import EndOfSource, SourceError, SourceFrame
from stream.sources.scene import SceneConfig, SceneSource
from tests.pipeline import ROOT, Outcome, Run, run, tracks_of

Tracks = list[dict[str, object]]

FRAMES = 40
SCENES = {8: "scene:?bits=8&width=160&height=128&seed=1", 16: "scene:?bits=16&width=160&height=128&seed=1"}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Path]:
    """A run over an 8-bit and a 16-bit scene that was recorded, as a subscriber saw it."""
    folder = tmp_path_factory.mktemp("recorded")
    config = folder / "config.yaml"
    streams = [{"name": f"s{bits}", "source": f"{uri}&frames={FRAMES}", "live": False} for bits, uri in SCENES.items()]
    config.write_text(json.dumps({"streams": streams}))
    outcome = run("--config", config, "--record", folder / "r", "--report", folder / "r.json", subscribed=True)
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    return outcome, folder


def replay(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stream.replay", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=60, check=False)


def heard(endpoint: str, messages: list[tuple[float, dict]], over: threading.Event) -> None:
    context = zmq.Context()
    socket = context.socket(zmq.SUB)
    socket.connect(endpoint)
    socket.subscribe(b"")
    while not over.is_set():
        while socket.poll(100):
            messages.append((time.monotonic(), msgpack.unpackb(socket.recv_multipart()[1])))
    socket.close(linger=0)
    context.term()


def test_every_frame_and_message_of_a_run_is_recorded(recorded: tuple[Outcome, Path]) -> None:
    """Files wait for the recorder: none is missing, pixels are the scene's, messages those that a subscriber got."""
    outcome, folder = recorded
    for stream in json.loads((folder / "r.json").read_text())["streams"]:
        assert (stream["recorded"], stream["not_recorded_by_reason"]) == (FRAMES, {})
    for name, path in find_streams(folder / "r").items():
        (stem,) = segments(path)
        scene = SceneSource(SceneConfig(bits=int(name[1:]), width=160, height=128, seed=1, frames=FRAMES, live=False))
        found = list(read_frames(stem))
        assert len(found) == FRAMES
        for _, pixels in found:
            frame = scene.read(1)
            assert frame is not None
            assert np.array_equal(pixels, frame.pixels)
    kept = [msgpack.unpackb(m.payload) for m in recorded_messages(folder / "r") if m.topic[0] == "t"]
    assert sorted(kept, key=str) == sorted((m for m in outcome.messages if m["schema"][9] == "t"), key=str)


def test_a_run_on_a_recording_gives_the_same_tracks(recorded: tuple[Outcome, Path]) -> None:
    """Each number of each track, frame by frame, 8 and 16 bit; the truth of a scene comes with it."""
    outcome, folder = recorded
    sources = [each for path in find_streams(folder / "r").values() for each in ("--source", f"recording:{path}")]
    again = run(*sources, subscribed=True)
    assert (again.code, again.left) == (0, []), again.err
    for name in ("s8", "s16"):
        before, after = ([(m["seq"], m["tracks"]) for m in tracks_of(o.messages, name)] for o in (outcome, again))
        assert after == before
        assert any(track["state"] == "confirmed" for _, tracks in after for track in tracks)
        truth = ("irstream.truth/1", name)
        there, here = ([m for m in o.messages if (m["schema"], m["stream"]) == truth] for o in (outcome, again))
        assert len(here) == FRAMES
        assert here == there


def live_and_again(folder: Path) -> tuple[list[tuple[int, Tracks]], list[tuple[int, Tracks]]]:
    """A live camera of 16 bit that is recorded, and a run on its recording: numbers and tracks of their messages."""
    source = f"{SCENES[16]}&fps=100&frames=120"
    first = run("--source", source, "--record", folder / "r", "--report", folder / "r.json", subscribed=True)
    assert (first.code, first.left) == (0, []), first.err
    (stream,) = json.loads((folder / "r.json").read_text())["streams"]
    assert stream["recorded"] + sum(stream["not_recorded_by_reason"].values()) == stream["published"]
    again = run("--source", f"recording:{folder}/r", subscribed=True)
    before = [(m["seq"], m["tracks"]) for m in tracks_of(first.messages, "scene")]
    after = [(m["seq"], m["tracks"]) for m in again.messages if m["schema"] == "irstream.tracks/1"]
    assert len(after) == stream["recorded"]
    return before, after


def test_a_live_run_with_drops_gives_the_same_tracks_again(tmp_path: Path) -> None:
    """A 16-bit camera, whose window moves with dropped frames too: numbers, windows and times are kept."""
    same, deadline = 0, time.monotonic() + 60
    # On a machine so busy that frames were not recorded, they are the same up to the first such frame: once more then,
    # if that is one of the first.
    while same < 10 and time.monotonic() < deadline:
        before, after = live_and_again(Path(tempfile.mkdtemp(dir=tmp_path)))
        same = next((i for i, (b, a) in enumerate(zip(before, after, strict=False)) if b[0] != a[0]), len(after))
        assert after[:same] == before[:same]
    assert same >= 10


@pytest.mark.parametrize("speed", ["real", "max"])
def test_messages_are_published_again_as_they_were(recorded: tuple[Outcome, Path], speed: str) -> None:
    """All of them, in their order; in real time they take as long as they took."""
    _, folder = recorded
    endpoint, over = free_endpoint(), threading.Event()
    messages: list[tuple[float, dict]] = []
    listener = threading.Thread(target=heard, args=(endpoint, messages, over))
    listener.start()
    ended = replay(folder / "r", "--speed", speed, "--publish", endpoint, "--wait-for", 1)
    over.set()
    listener.join()
    assert ended.returncode == 0, ended.stderr
    kept = list(recorded_messages(folder / "r"))
    assert [message for _, message in messages] == [msgpack.unpackb(each.payload) for each in kept]
    if speed == "real":
        assert messages[-1][0] - messages[0][0] > 0.9 * (kept[-1].time_ns - kept[0].time_ns) / 1e9


def test_exports_have_every_track(recorded: tuple[Outcome, Path], tmp_path: Path) -> None:
    """CSV, MOTChallenge and JSON lines, read back, are what a subscriber got."""
    outcome, folder = recorded
    ended = replay(
        folder / "r", "--csv", tmp_path / "t.csv", "--mot", tmp_path / "mot", "--jsonl", tmp_path / "m.jsonl"
    )
    assert ended.returncode == 0, ended.stderr
    lines = [json.loads(line) for line in (tmp_path / "m.jsonl").read_text().splitlines()]
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    for name in ("s8", "s16"):
        sent = tracks_of(outcome.messages, name)
        assert tracks_of(lines, name) == sent
        expected = [(m["seq"], t["id"], t["state"], t["x"], t["vy"]) for m in sent for t in m["tracks"]]
        mine = [row for row in rows if row["stream"] == name]
        found = [(int(r["seq"]), int(r["id"]), r["state"], float(r["x"]), float(r["vy"])) for r in mine]
        assert found == expected
        boxes = np.loadtxt(tmp_path / "mot" / f"{name}.txt", delimiter=",")
        sure = [(m["seq"] + 1, t["id"], t["x"], t["y"]) for m in sent for t in m["tracks"] if t["state"] != "tentative"]
        centres = boxes[:, 2:4] + boxes[:, 4:6] / 2 - 1.5
        assert np.allclose(np.column_stack([boxes[:, :2], centres]), sure, atol=2e-3)
        assert (boxes[:, 7:] == -1).all()


def test_a_killed_run_is_recorded_up_to_its_last_second(tmp_path: Path) -> None:
    """SIGKILL to the whole run: what a subscriber has seen more than a second ago is on disk, frames and messages."""
    started = Run("--source", SCENES[8], "--record", tmp_path)
    messages = started.listen(lambda seen: len(tracks_of(seen, "scene")) >= 60)
    os.killpg(started.process.pid, signal.SIGKILL)
    started.end()
    sent = tracks_of(messages, "scene")
    due = [m["seq"] for m in sent if sent[-1]["published_ns"] - m["published_ns"] > 1e9]
    (stream,) = find_streams(tmp_path).values()
    kept = {each.seq for stem in segments(stream) for each, _ in read_frames(stem)}
    assert due
    assert kept >= set(due)
    tracked = {msgpack.unpackb(m.payload)["seq"] for m in recorded_messages(tmp_path) if m.topic == "tracks/scene"}
    assert tracked >= set(due)


def test_a_recorder_that_stalls_does_not_stop_the_pipeline(tmp_path: Path) -> None:
    """The recorder is frozen: tracks go on coming, another takes its place, and what it missed is counted."""
    started = Run("--source", SCENES[8], "--record", tmp_path / "r", "--report", tmp_path / "r.json")
    started.listen(lambda seen: len(tracks_of(seen, "scene")) >= 10)
    os.kill(started.worker("record"), signal.SIGSTOP)
    messages = started.listen(lambda seen: len(tracks_of(seen, "scene")) >= 80)
    assert len(tracks_of(messages, "scene")) >= 80
    os.kill(started.process.pid, signal.SIGINT)
    outcome = started.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    (stream,) = json.loads((tmp_path / "r.json").read_text())["streams"]
    assert stream["restarts"] == {"record: the worker stalled (does not run for 1 s)": 1}
    missed = stream["not_recorded_by_reason"]
    assert sum(missed.values()) >= 10
    assert stream["recorded"] + sum(missed.values()) == stream["published"]


def frames_of(uri: str, live: bool) -> list[SourceFrame]:
    source, found = open_source(uri, live), []
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            if frame := source.read(0.2):
                found.append(frame)
        except EndOfSource:
            return found
    raise AssertionError("the source did not end")


def test_a_live_recording_comes_at_its_own_pace(recorded: tuple[Outcome, Path]) -> None:
    """Paced, a frame is due as long after the first as it was captured."""
    path = find_streams(recorded[1] / "r")["s8"]
    frames = frames_of(f"recording:{path}", live=True)
    assert len(frames) == FRAMES
    first = frames[0]
    for frame in frames:
        assert frame.captured_ns - first.captured_ns == (frame.camera_ns or 0) - (first.camera_ns or 0)


def test_a_source_that_is_no_one_recording_is_refused(recorded: tuple[Outcome, Path], tmp_path: Path) -> None:
    """One line says which streams there are, or what is expected."""
    with pytest.raises(SourceError, match=r"2 streams in it; name one: .*/s16, .*/s8"):
        check_source(f"recording:{recorded[1]}/r")
    with pytest.raises(SourceError, match="gone: no such folder"):
        check_source(f"recording:{tmp_path}/gone")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["gone"], "gone: no such folder"),
        (["RECORDING", "--csv", "no/such/t.csv"], "--csv no/such/t.csv: its folder does not exist"),
        (["RECORDING", "--jsonl", "/"], "--jsonl /: a folder"),
        (["RECORDING", "--mot", "README.md/mot"], "README.md is a file"),
        (["RECORDING", "--publish", "pigeon://loft"], "pigeon://loft"),
        (
            ["RECORDING", "--publish", "tcp://0.0.0.0:7000"],
            "--publish tcp://0.0.0.0:7000: a recording is",
        ),
    ],
)
def test_bad_input_gives_one_clear_line(recorded: tuple[Outcome, Path], arguments: list[str], says: str) -> None:
    given = [str(recorded[1] / "r") if each == "RECORDING" else each for each in arguments]
    ended = replay(*given)
    assert ended.returncode == 2
    (line,) = ended.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_folder_that_cannot_be_recorded_into_is_named(tmp_path: Path) -> None:
    """Nothing starts when nothing could be kept."""
    (tmp_path / "file").write_text("")
    outcome = run("--source", "scene:?frames=5", "--record", tmp_path / "file")
    assert outcome.code == 2
    (line,) = outcome.err.splitlines()
    assert f"record.folder {tmp_path}/file: not a directory" in line
