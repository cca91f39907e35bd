"""The command, from outside: real processes, real video, a subscriber that knows only pyzmq and msgpack."""

from __future__ import annotations

import csv
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import onnx
import pytest

from engine.base import ENGINES
from stream.usage import own_shm
from tests.deep import FILLS, deepened, scene_pixels, write_video
from tests.pipeline import LIMIT_S, ROOT, Outcome, Run, processes, run, tracks_of, wait_until

CLIP = "IR_DRONE_077"


@pytest.fixture(scope="module")
def clips(data: Path) -> Path:
    folder = data / "ir-video"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="module")
def alone(clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, dict]:
    path = tmp_path_factory.mktemp("alone") / "r.json"
    outcome = run("--source", clips / f"{CLIP}.mp4", "--report", path, subscribed=True)
    return outcome, json.loads(path.read_text())


def test_every_frame_of_a_clip_becomes_a_message(alone: tuple[Outcome, dict], clips: Path) -> None:
    outcome, report = alone
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    with av.open(str(clips / f"{CLIP}.mp4")) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert [m["seq"] for m in tracks_of(outcome.messages, CLIP)] == list(range(frames))
    (stream,) = report["streams"]
    assert (stream["frames"], stream["published"], stream["dropped"]) == (frames, frames, 0)
    assert list(report["stages_ms"]) == ["capture", "queue", "engine", "detect", "track", "publish"]
    assert set(report["end_to_end_ms"]) == {"p50", "p90", "p99", "p999", "max"}
    # What ran, not what was asked for: 'auto' is no engine.
    assert report["configured"] == {"model": "rpcanet_plus_k1", "engine": "auto"}
    assert report["engine"] == stream["engine"] in ENGINES
    assert report["model"] == stream["model"] == "rpcanet_plus_k1"


def test_a_confirmed_track_follows_the_labelled_drone(alone: tuple[Outcome, dict], clips: Path) -> None:
    with (clips / f"{CLIP}.csv").open() as file:
        boxes = {int(row["frame"]): tuple(float(row[k]) for k in "xywh") for row in csv.DictReader(file)}
    hits = 0
    for message in tracks_of(alone[0].messages, CLIP):
        if box := boxes.get(message["seq"]):
            x, y = box[0] + box[2] / 2 - 0.5, box[1] + box[3] / 2 - 0.5
            near = [t for t in message["tracks"] if np.hypot(t["x"] - x, t["y"] - y) < 12 and t["state"] != "tentative"]
            hits += bool(near)
    assert hits > len(boxes) / 2


def test_stages_never_go_back_in_time(alone: tuple[Outcome, dict]) -> None:
    for message in tracks_of(alone[0].messages, CLIP):
        times = list(message["stages"].values())
        assert times == sorted(times)
        assert times[0] >= 0
        assert message["published_ns"] - message["captured_ns"] == times[-1]


def test_two_clips_at_once_give_each_what_it_gives_alone(alone: tuple[Outcome, dict], clips: Path) -> None:
    other = "IR_AIRPLANE_030"
    both = run("--source", clips / f"{CLIP}.mp4", "--source", clips / f"{other}.mp4", subscribed=True)
    assert (both.code, both.left) == (0, []), both.err
    assert tracks_of(both.messages, other)
    here, there = ([(m["seq"], m["tracks"]) for m in tracks_of(o.messages, CLIP)] for o in (alone[0], both))
    assert here == there


def test_live_scenes_publish_tracks_truth_and_status_and_account_for_every_frame(tmp_path: Path) -> None:
    started = Run("--duration", 6, "--report", tmp_path / "r.json")
    outcome = started.end(started.listen())
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    kinds = ("detections", "tracks", "truth", "status")
    assert {m["schema"] for m in outcome.messages} == {f"irstream.{kind}/1" for kind in kinds}
    for stream in json.loads((tmp_path / "r.json").read_text())["streams"]:
        assert stream["frames"] == stream["published"] + stream["dropped"]
        assert stream["frames"] == pytest.approx(6 * 30, abs=20)
        messages = tracks_of(outcome.messages, stream["name"])
        seqs = [m["seq"] for m in messages]
        assert seqs == sorted(set(seqs))
        for before, after in itertools.pairwise(messages):
            assert after["seq"] - before["seq"] - 1 == sum(after["dropped"].values())
        assert any(t["state"] == "confirmed" for m in messages for t in m["tracks"])


def test_a_scene_in_16_bits_gives_the_tracks_that_it_gives_in_8(tmp_path: Path) -> None:
    """As video in 8 bits, and in 16 that fill a part of the range, or whose high bytes are all the same: a step that
    takes a byte away leaves nothing to see in the last. More is found in 16 bits, where the window is narrower."""
    frames = scene_pixels(1, 45)
    sources = {"eight": frames, "part": [deepened(p, FILLS[1]) for p in frames]}
    sources["low_byte"] = [deepened(p, FILLS[2]) for p in frames]
    paths = [write_video(tmp_path / f"{name}.mkv", pixels) for name, pixels in sources.items()]
    outcome = run(*(part for path in paths for part in ("--source", path)), "--file", subscribed=True)
    assert (outcome.code, outcome.left) == (0, []), outcome.err

    def confirmed(name: str) -> list[list[tuple[float, float]]]:
        messages = tracks_of(outcome.messages, name)
        assert [m["seq"] for m in messages] == list(range(len(frames)))
        return [[(t["x"], t["y"]) for t in m["tracks"] if t["state"] == "confirmed"] for m in messages]

    eight = confirmed("eight")
    assert sum(map(len, eight)) > 60
    for name in ("part", "low_byte"):
        pairs = [(x, y, there) for here, there in zip(eight, confirmed(name), strict=True) for x, y in here]
        shared = [any(np.hypot(x - u, y - v) < 2 for u, v in there) for x, y, there in pairs]
        assert np.mean(shared) > 0.95


def test_report_to_standard_output_leaves_it_to_json_alone() -> None:
    outcome = run("--source", "scene:?frames=20", "--file", "--report", "-")
    assert outcome.code == 0
    assert json.loads(outcome.out)["streams"][0]["published"] == 20


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("group", [False, True], ids=["to-the-command", "to-all-its-processes"])
def test_a_signal_ends_the_run_cleanly(number: signal.Signals, group: bool) -> None:
    started = Run()
    started.listen(until=bool)
    (os.killpg if group else os.kill)(started.process.pid, number)
    outcome = started.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    assert outcome.out.index("ending; what was captured is still") < outcome.out.index("end to end")


def test_a_signal_while_it_starts_ends_it_at_once() -> None:
    started = Run("--wait-for", 1)  # nobody comes
    assert started.process.stderr
    said = iter(started.process.stderr.readline, "")  # a slow machine says before that it is still starting
    assert any("waiting for 1 to subscribe to tracks/ on tcp://127.0.0.1" in line for line in said)
    before = time.monotonic()
    os.killpg(started.process.pid, signal.SIGINT)
    outcome = started.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    assert time.monotonic() - before < 10


def test_a_killed_supervisor_takes_its_workers_with_it() -> None:
    started = Run()
    started.listen(until=bool)
    started.process.kill()
    started.process.communicate(timeout=LIMIT_S)
    wait_until(lambda: not processes(started.mark), 10, "the workers' end")
    assert own_shm(started.pids) <= started.shm


def test_the_pipeline_imports_no_torch() -> None:
    check = (
        "import sys, stream.command, stream.workers.infer, engine.openvino_engine, engine.onnxruntime_engine\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=True, timeout=LIMIT_S)


def _bad_config(folder: Path, text: str) -> list[object]:
    path = folder / "bad.yaml"
    path.write_text(text)
    return ["--config", path]


def _empty_video(folder: Path) -> list[object]:
    (folder / "empty.mp4").touch()
    return ["--source", folder / "empty.mp4"]


def _truncated_video(folder: Path) -> list[object]:
    whole = folder / "whole.mkv"
    rng = np.random.default_rng(0)
    with av.open(str(whole), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "gray"
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(rng.integers(0, 255, (64, 64), np.uint8), format="gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    content = whole.read_bytes()
    (folder / "cut.mkv").write_bytes(content[: len(content) * 2 // 3])
    return ["--source", folder / "cut.mkv"]


def _wrong_contract(folder: Path) -> list[object]:
    tensor = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [tensor], [
        onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    ])  # fmt: skip
    onnx.save(onnx.helper.make_model(graph), folder / "other.onnx")
    return ["--model", folder / "other.onnx"]


def _bad_image(folder: Path) -> list[object]:
    frames = folder / "frames"
    frames.mkdir()
    cv2.imwrite(str(frames / "1.png"), np.zeros((64, 64), np.uint8))
    (frames / "2.png").write_bytes(b"no image")
    return ["--source", frames]


def _large_image(folder: Path) -> list[object]:
    (folder / "frames").mkdir()
    cv2.imwrite(str(folder / "frames" / "1.png"), np.zeros((4096, 5000), np.uint8))
    return ["--source", folder / "frames"]


STREAMS = "streams: [{name: a, source: 'scene:'}]\n"
BAD = {
    "missing file": (lambda _: ["--source", "gone.mp4"], "gone.mp4"),
    "a folder where a file is due": (lambda d: ["--config", d], "Is a directory"),
    "empty video": (_empty_video, "empty.mp4"),
    "truncated video": (_truncated_video, "cut.mkv"),
    "unknown source": (lambda _: ["--source", "carrier-pigeon://loft/1"], "carrier-pigeon"),
    "unknown model": (lambda _: ["--model", "rpcanet_minus"], "rpcanet_minus: no such model; shipped are"),
    "a model of another contract": (_wrong_contract, "other.onnx: no contract"),
    "unknown engine": (lambda _: ["--engine", "steam"], "steam"),
    "YAML that does not parse": (lambda d: _bad_config(d, "streams: ["), "bad.yaml: not YAML"),
    "unknown key": (lambda d: _bad_config(d, STREAMS + "modle: x"), "modle: no such key; did you mean 'model'"),
    "value out of range": (lambda d: _bad_config(d, STREAMS + "threads: 0"), "threads"),
    "unreadable image": (_bad_image, "2.png"),
    "unknown field of a scene": (lambda _: ["--source", "scene:?sede=3"], "sede"),
    "frames that are too large": (_large_image, "5000x4096"),
    "a folder for the report": (lambda d: ["--report", d], "a folder"),
    "pace without a source": (lambda _: ["--live"], "--source"),
    "report into no folder": (lambda d: ["--report", d / "no" / "r.json"], "its folder does not exist"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.replace(" ", "-"))
def test_bad_input_gives_one_clear_line(case: str, tmp_path: Path) -> None:
    make, says = BAD[case]
    outcome = run(*make(tmp_path))
    assert (outcome.code, outcome.left) == (2, [])
    (line,) = outcome.err.splitlines()
    assert line.startswith("error: ")
    assert says in line


def test_a_busy_port_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        outcome = run("--source", "scene:?frames=5", endpoint=endpoint)
    assert (outcome.code, outcome.left) == (2, [])
    (line,) = outcome.err.splitlines()
    assert endpoint in line
    assert "in use" in line
