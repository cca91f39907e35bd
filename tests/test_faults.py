"""Faults, from outside: workers killed and stopped under load, and what the messages, the report and the exit say."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path

import pytest

from stream import StreamError
from stream.client import subscribe
from stream.curve import allow, make_pair, read_public
from stream.frame import RESTART
from stream.processes import MOST_RESTARTS
from stream.record import find_streams, read_frames, segments
from stream.replay import recorded_messages
from stream.sources import open_source
from stream.system import SLOTS
from tests.pipeline import Run, processes, tracks_of

LIVE = [
    "--source", "scene:?width=128&height=96&seed=1&fps=30", "--source", "scene:?width=128&height=96&seed=2&fps=30",
]  # fmt: skip
WORKERS = ["capture scene", "infer", "track"]
PROCESSES = [*WORKERS, "record", "fork server"]
STREAMS = ("scene", "scene_2")
OTHER = "capture scene_2"
BACK_S = 20.0  # 2 s are asked and kept on an idle machine; here other programs may share it


class Faults:
    """Does one fault after the other to a run; the next once all streams have been back for a while."""

    def __init__(self, started: Run, number: signal.Signals) -> None:
        self.started, self.number = started, number
        self.todo = list(PROCESSES)
        self.at_ns = 0
        self.victim = 0
        self.back_s: dict[str, float] = {}

    def __call__(self, messages: list[dict]) -> bool:
        since = [[m for m in tracks_of(messages, s) if m["captured_ns"] > self.at_ns] for s in STREAMS]
        assert not self.at_ns or time.monotonic_ns() - self.at_ns < 60e9, f"not back after {self.todo[0]}"
        enough = 20 if self.at_ns else 60  # before the first, so that there is something to find in the recording
        if any(len(s) < enough for s in since) or (self.victim and Path(f"/proc/{self.victim}").exists()):
            return False
        if self.at_ns:
            name = self.todo.pop(0)
            restarted = [m for m in since[0] if m["published_ns"] > self.at_ns]
            gaps = [b["published_ns"] - a["published_ns"] for a, b in itertools.pairwise(restarted)]
            self.back_s[name] = max([restarted[0]["published_ns"] - self.at_ns, *gaps]) / 1e9
        if self.todo:
            self.victim = self.started.worker(self.todo[0])
            self.at_ns = time.monotonic_ns()
            os.kill(self.victim, self.number)
            if (self.todo[0], self.number) == ("fork server", signal.SIGSTOP):  # nothing is missed but who dies now
                self.victim = self.started.worker(WORKERS[0])
                os.kill(self.victim, signal.SIGKILL)
                (tracker,) = (pid for pid, line in processes(self.started.mark) if "resource_tracker" in line)
                os.kill(tracker, signal.SIGSTOP)  # Python's own
        return not self.todo


def what_is_said(number: signal.Signals) -> list[str]:
    """Return the reasons for which workers are replaced, in order but for the last ones."""
    what = "died (signal 9)" if number == signal.SIGKILL else "stalled (does not run for 1 s)"
    reasons = [f"{name}: the worker {what}" for name in PROCESSES[:-1]]
    if number == signal.SIGKILL:  # all the workers with it
        return reasons + [f"{name}: the worker died with the fork server" for name in (*PROCESSES[:-1], OTHER)]
    return [*reasons, f"{WORKERS[0]}: the worker died (signal 9)"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_processes_that_die_or_stall_are_replaced_and_every_frame_is_accounted_for(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Each kind of worker, then the process that forks them: killed, it takes them all with it.

    The gap in the numbers is what the messages say was dropped, with the reason; track ids are not used again.
    """
    started = Run(*LIVE, "--record", tmp_path / "r", "--report", tmp_path / "r.json", "--wait-for", 1)
    faults = Faults(started, number)
    messages = started.listen(until=faults)
    os.kill(started.process.pid, signal.SIGINT)
    outcome = started.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    print("silent for, s:", faults.back_s)
    assert max(faults.back_s.values()) < BACK_S
    reasons = what_is_said(number)
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    expected = [f"warning: {reason}; it is started again" for reason in reasons]
    if number == signal.SIGSTOP:
        helpers = ("fork server", "resource tracker")
        expected += [f"warning: the {name} was stopped; it was told to go on" for name in helpers]
    assert warnings[: len(WORKERS)] == expected[: len(WORKERS)]
    assert sorted(warnings) == sorted(expected)
    restarted = 0
    for stream in STREAMS:
        tracks = tracks_of(messages, stream)
        lost_on_the_way = []
        for before, after in itertools.pairwise(tracks):
            unsaid = after["seq"] - before["seq"] - 1 - sum(after["dropped"].values())
            lost_on_the_way += [unsaid] if unsaid else []
        # A tracker that dies takes what its socket had not sent with it, and a subscriber needs to connect again.
        assert len(lost_on_the_way) <= sum(reason.startswith("track: ") for reason in reasons)
        assert all(count > 0 for count in lost_on_the_way)
        restarted += sum(m["dropped"].get(RESTART, 0) for m in tracks)
        ages: dict[int, list[int]] = {}
        for message in tracks:
            for track in message["tracks"]:
                ages.setdefault(track["id"], []).append(track["age"])
        assert all(younger < older for age in ages.values() for younger, older in itertools.pairwise(age))
    assert restarted > 0 or number == signal.SIGKILL  # one that dies between two frames loses none
    report = {s["name"]: s for s in json.loads((tmp_path / "r.json").read_text())["streams"]}
    for name, stream in report.items():
        assert stream["frames"] == stream["published"] + stream["dropped"]
        assert stream["recorded"] + sum(stream["not_recorded_by_reason"].values()) == stream["published"]
        others = WORKERS[0] if name == "scene_2" else OTHER
        assert stream["restarts"] == {reason: 1 for reason in reasons if not reason.startswith(f"{others}:")}
    last = [m for m in messages if m["schema"] == "irstream.status/1" and m["stream"] == "scene"][-1]
    assert last["restarts"].items() <= report["scene"]["restarts"].items()  # it is up to a second old
    assert len(last["restarts"]) >= 2
    for folder in find_streams(tmp_path / "r").values():
        assert sum(1 for stem in segments(folder) for _ in read_frames(stem)) > 100


def test_a_file_goes_on_at_the_next_frame(tmp_path: Path) -> None:
    """Each worker is killed in turn: every frame is published or counted, and is the one that its number says."""
    # More than ZeroMQ's queues hold, or the run is over before a slow listener has come to the last kill.
    uri, frames = "scene:?width=128&height=96&seed=1&frames=1000", 1000
    started = Run("--source", uri, "--file", "--wait-for", 1, "--report", tmp_path / "r.json")
    todo = dict(zip(WORKERS, (40, 150, 260), strict=True))

    def until(messages: list[dict]) -> bool:
        for name, after in list(todo.items()):
            if len(tracks_of(messages, "scene")) >= after:
                del todo[name]
                os.kill(started.worker(name), signal.SIGKILL)
        return False

    messages = started.listen(until=until)
    outcome = started.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    (stream,) = json.loads((tmp_path / "r.json").read_text())["streams"]
    assert sum(stream["restarts"].values()) == 3
    assert stream["published"] + stream["dropped"] == stream["frames"] == frames
    assert stream["dropped"] <= 2 * SLOTS
    seqs = [m["seq"] for m in tracks_of(messages, "scene")]
    assert seqs == sorted(set(seqs))
    source = open_source(uri, live=False)
    truth = [source.read(1.0).truth for _ in range(frames)]
    for message in messages:
        if message["schema"] == "irstream.truth/1":
            assert [(t["x"], t["y"]) for t in message["targets"]] == [(p.x, p.y) for p in truth[message["seq"]]]


def test_a_supervisor_that_is_stopped_holds_nobody_up(tmp_path: Path) -> None:
    """Nor does a log whose disk is full: its lines are lost, and the run, its report and its exit code are as ever."""
    with Path("/dev/full").open("w") as full:
        started = Run(*LIVE, "--report", tmp_path / "r.json", says=full)
    started.listen(until=bool)
    os.kill(started.process.pid, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        messages = started.listen(until=lambda _: time.monotonic() - stopped > 3)
    finally:
        os.kill(started.process.pid, signal.SIGCONT)
    assert len(tracks_of(messages, "scene")) > 20
    assert started.listen(until=lambda seen: any(m["schema"] == "irstream.status/1" for m in seen))
    os.kill(started.process.pid, signal.SIGINT)
    outcome = started.end()
    assert (outcome.code, outcome.left) == (0, [])
    assert [stream["restarts"] for stream in json.loads((tmp_path / "r.json").read_text())["streams"]] == [{}, {}]


def test_a_camera_that_keeps_dying_is_given_up_and_the_other_goes_on(tmp_path: Path) -> None:
    frames = 450
    started = Run(LIVE[0], LIVE[1], LIVE[2], f"{LIVE[3]}&frames={frames}", "--report", tmp_path / "r.json")
    started.listen(until=bool)
    killed: set[int] = set()

    def kill(_: list[dict]) -> bool:
        for pid, command in processes(started.mark):
            if command == "irstream capture scene" and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)
        return False

    started.listen(until=kill)
    outcome = started.end()
    assert (outcome.code, outcome.left) == (1, []), outcome.err
    assert len(killed) == MOST_RESTARTS + 1
    reason = "capture scene: the worker died (signal 9); 5 restarts within 60 s are the most"
    assert outcome.err.splitlines()[-1] == f"error: {reason}"
    first, second = json.loads((tmp_path / "r.json").read_text())["streams"]
    assert first["fault"] == reason
    assert (second["fault"], second["frames"], second["restarts"]) == (None, frames, {})


def test_a_tracker_that_keeps_dying_ends_the_run_and_until_then_only_known_clients_listen(tmp_path: Path) -> None:
    """One that takes another's place asks for the same keys: alice listens again, nobody else does."""
    for name in ("pipeline", "alice", "mallory"):
        make_pair(tmp_path, name)
    allow(tmp_path / "clients", "alice", read_public(str(tmp_path / "alice.key")))
    publish = {"key": str(tmp_path / "pipeline.key_secret"), "clients": str(tmp_path / "clients")}
    config = tmp_path / "c.yaml"
    config.write_text(json.dumps({"streams": [{"name": "scene", "source": LIVE[1]}], "publish": publish}))
    started = Run("--config", config)

    def listen(name: str | None) -> int:
        """Return when the first message that a client gets was published."""
        keys = {"server_key": str(tmp_path / "pipeline.key"), "key": tmp_path / f"{name}.key_secret"} if name else {}
        with subscribe(started.endpoint, timeout=60, **keys) as messages:
            return next(messages).published_ns

    killed: set[int] = set()

    def end_tracker() -> None:
        for pid, command in processes(started.mark):
            if command == "irstream track" and pid not in killed:
                killed.add(pid)
                os.kill(pid, signal.SIGKILL)

    listen("alice")
    end_tracker()
    ended_ns = time.monotonic_ns()
    assert listen("alice") > ended_ns
    with pytest.raises(StreamError, match="does not let this client in"):
        listen("mallory")
    with pytest.raises(StreamError, match="asks for keys"):
        listen(None)
    while started.process.poll() is None:
        end_tracker()
    outcome = started.end()
    assert (outcome.code, outcome.left) == (1, [])
    *warnings, last = outcome.err.splitlines()
    assert warnings == ["warning: track: the worker died (signal 9); it is started again"] * MOST_RESTARTS
    assert last == "error: track: the worker died (signal 9); 5 restarts within 60 s are the most"


SET_CLOCK = """
import os, time
true_ns = time.time_ns
def time_ns():
    with open(os.environ["CLOCK"]) as file:
        return true_ns() + int(file.read())
time.time_ns, time.time = time_ns, lambda: time_ns() / 1e9
"""


class Clock:
    """What the processes of a run take for UTC; their monotonic clock is the machine's.

    Python's own functions are replaced. (libfaketime would reach those of C as well, but breaks Python's sleep.)
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(SET_CLOCK)
        self.file = folder / "clock"
        self.set(0)
        path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
        self.environment = {"PYTHONPATH": path, "CLOCK": str(self.file)}

    def set(self, hours: int) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.write_text(str(hours * HOUR_NS))
        fresh.replace(self.file)


HOUR_NS = 3_600_000_000_000


def test_a_clock_that_is_set_while_it_runs_changes_utc_and_nothing_else(tmp_path: Path) -> None:
    """Two hours back, then a day forward: no frame is dropped for it, latencies and tracks go on, nothing is replaced,
    and the recording is in order."""
    clock = Clock(tmp_path / "clock")
    started = Run(
        *LIVE[:2], "--record", tmp_path / "r", "--report", tmp_path / "r.json", environment=clock.environment
    )  # fmt: skip
    hours, messages = (0, -2, 24), []
    for hour in hours:
        clock.set(hour)

        def is_seen(heard: list[dict], hour: int = hour) -> bool:
            jumps = {round((m["captured_utc_ns"] - time.time_ns()) / HOUR_NS) for m in tracks_of(heard, "scene")[-30:]}
            return len(tracks_of(heard, "scene")) > 45 and jumps == {hour}

        messages += started.listen(is_seen)
    os.kill(started.process.pid, signal.SIGINT)
    outcome = started.end()
    assert (outcome.code, outcome.left, outcome.err) == (0, [], "")
    tracks = tracks_of(messages, "scene")
    offsets = {round((m["captured_utc_ns"] - m["captured_ns"]) / HOUR_NS, 2) for m in tracks}
    base = round((time.time_ns() - time.monotonic_ns()) / HOUR_NS, 2)
    assert sorted(round(offset - base) for offset in offsets) == sorted(hours)
    assert all(0 <= m["published_ns"] - m["captured_ns"] < 30e9 for m in tracks)
    assert all(a["captured_ns"] < b["captured_ns"] for a, b in itertools.pairwise(tracks))
    (stream,) = json.loads((tmp_path / "r.json").read_text())["streams"]
    assert stream["restarts"] == {}
    assert stream["end_to_end_ms"]["max"] < 30_000
    last = [m for m in messages if m["schema"] == "irstream.status/1"][-1]
    assert (last["health"], last["latency_ms"]["max"] < 30_000, last["fps"] > 0) == ("ok", True, True)
    alive = [{t["id"] for m in part for t in m["tracks"]} for part in (tracks[:45], tracks[-45:])]
    assert alive[0] & alive[1]
    kept = list(recorded_messages(tmp_path / "r"))
    assert all(abs(b.time_ns - a.time_ns) < 30e9 for a, b in itertools.pairwise(kept))
