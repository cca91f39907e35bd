"""The command line: helps, hints, colours on a terminal alone, JSON lines."""

from __future__ import annotations

import importlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from engine.base import ENGINES
from stream.command import with_addresses
from stream.web.address import DEFAULT as ADDRESS
from tests.pipeline import ROOT, Run

ESCAPE = "\x1b["
COMMANDS = {
    "run_pipeline.py": [str(ROOT / "run_pipeline.py")],
    **{name: ["-m", name] for name in ("stream.subscribe", "stream.keys", "stream.replay", "engine.bench")},
}


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    plain = {key: value for key, value in os.environ.items() if key not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env={**plain, "COLUMNS": "100"}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def on_a_terminal(arguments: Sequence[str]) -> str:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    env = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm-256color"}
    with subprocess.Popen([sys.executable, *arguments], cwd=ROOT, env=env, stdout=theirs, stderr=theirs):
        os.close(theirs)
        said = b""
        try:
            while part := os.read(ours, 65_536):
                said += part
        except OSError:  # the terminal's other end is closed
            pass
    os.close(ours)
    return said.decode()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_says_what_it_does_in_plain_text(name: str) -> None:
    done = call(*COMMANDS[name], "--help")
    assert done.returncode == 0, done.stderr
    assert name in done.stdout.partition("Usage:")[2].splitlines()[0]
    assert "--help" in done.stdout
    assert ESCAPE not in done.stdout + done.stderr
    assert str(ROOT) not in done.stdout.replace(str(Path.cwd()) + "/run", "")


def test_a_help_calls_values_by_names_of_command_lines_not_by_types_of_python() -> None:
    """A switch takes none; a choice lists its values."""
    for command in COMMANDS.values():
        said = call(*command, "--help").stdout
        assert "<bool>" not in said
        assert not re.search(r"--\S+ +<", said), said
    assert re.search(r"--speed +real\|max ", call(*COMMANDS["stream.replay"], "--help").stdout)


CTRL_C = """
import os, signal
try:
    os.kill(os.getpid(), signal.SIGINT)
except BaseException:
    pass  # as some libraries do
"""


@pytest.mark.parametrize(
    ("command", "library", "stub", "says"),
    [
        ("stream.web", "typer", CTRL_C, ""),
        ("engine.bench", "onnx", CTRL_C, ""),
        ("training.train", "torch", "raise ModuleNotFoundError(name='torch')", "error: torch is not installed for "),
    ],
)
def test_what_ends_a_command_while_it_still_imports_shows_no_traceback(
    tmp_path: Path, command: str, library: str, stub: str, says: str
) -> None:
    """An early Ctrl-C, a library that make setup leaves to make setup-dev."""
    (tmp_path / f"{library}.py").write_text(stub)
    done = subprocess.run(
        [sys.executable, "-m", command, "--help"], cwd=ROOT, env={**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode not in (0, 2)
    assert done.stderr.startswith(says)
    assert len(done.stderr.splitlines()) == bool(says), done.stderr


def test_colours_are_for_terminals() -> None:
    assert ESCAPE in on_a_terminal([*COMMANDS["run_pipeline.py"], "--help"])


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("run_pipeline.py", ["--sorce", "x"], "--sorce: no such option; did you mean --source?"),
        ("run_pipeline.py", ["--zzz"], "--zzz: no such option; --help lists them"),
        ("run_pipeline.py", ["flight.mp4"], "flight.mp4: no option; did you mean --source flight.mp4?"),
        ("run_pipeline.py", ["--duration", "soon"], "--duration: input should be a valid number"),
        ("run_pipeline.py", ["--duration", "-3"], "error: --duration: input should be greater than 0 (it is -3.0)"),
        (
            "run_pipeline.py",
            ["--publish", "here"],
            "error: --publish: tcp://HOST:PORT is expected, or ipc://PATH (it is 'here')",
        ),
        ("run_pipeline.py", ["--publish", "tcp://0.0.0.0:1"], "error: --publish: tcp://0.0.0.0:1 can be reached from"),
        ("run_pipeline.py", ["--source"], "option '--source' requires an argument"),
        ("run_pipeline.py", ["--report", "r.pdf"], "--report r.pdf: a name that ends in .html (a page) or .json"),
        ("stream.subscribe", ["tcp://127.0.0.1:1", "--sever-key", "x"], "did you mean --server-key?"),
        ("stream.subscribe", [], "ENDPOINT: this argument is needed"),
        ("stream.subscribe", ["tcp://127.0.0.1:1", "--count", "0"], "--count: input should be greater than or equal"),
        ("stream.replay", ["x", "--speed", "fast"], "--speed: 'fast' is not one of 'real', 'max'"),
        ("engine.bench", [], "--model: this option is needed"),
        ("stream.subscribe", ["tcp://127.0.0.1:1", "--kind", "track"], "one of tracks, detections, truth, status"),
        ("stream.subscribe", ["tcp://127.0.0.1:1", "--key", "x"], "only one was given"),
        ("stream.keys", ["lst"], "; did you mean 'list'?"),
    ],
)
def test_a_wrong_flag_is_answered_with_the_right_one(name: str, arguments: list[str], says: str) -> None:
    done = call(*COMMANDS[name], *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert ESCAPE not in line


def test_every_command_answers_so() -> None:
    """None is run by typer itself, which would draw a box of several lines."""
    for package in ("engine", "stream", "training"):
        for path in (ROOT / package).rglob("*.py"):
            assert "typer.run(" not in path.read_text(), path


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ([], []),
        (["--view"], ["--view", ADDRESS]),
        (["--metrics", "--duration", "3"], ["--metrics", ADDRESS, "--duration", "3"]),
        (["--view", "0.0.0.0:80", "--check"], ["--view", "0.0.0.0:80", "--check"]),
    ],
    ids=str,
)
def test_an_address_may_be_left_out(given: list[str], filled: list[str]) -> None:
    assert with_addresses(given) == filled


def test_without_any_option_the_demo_runs_until_ctrl_c() -> None:
    with socket.socket() as probe:
        if not probe.connect_ex(("127.0.0.1", 5560)):
            pytest.skip("something else publishes on the default port, 5560")
    process = subprocess.Popen(
        [sys.executable, *COMMANDS["run_pipeline.py"]], cwd=ROOT, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    said = [process.stdout.readline() for _ in range(2)]  # the second comes after some seconds of frames
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert said[0].startswith("starting rpcanet_plus_k1"), (said, out, err)
    assert (process.returncode, err) == (0, "")
    assert "end to end" in out


def test_log_json_is_one_object_a_line_from_start_to_end() -> None:
    started = Run("--source", "scene:?frames=30&width=64&height=64", "--file", "--log-json")
    outcome = started.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    lines = [json.loads(line) for line in outcome.out.splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["starting", "ended"]
    assert lines[0]["endpoint"] == started.endpoint
    assert lines[-1]["streams"][0]["published"] == 30
    assert all({"event", "level", "timestamp"} <= set(line) for line in lines)


def test_a_worker_that_dies_is_an_object_too() -> None:
    started = Run("--source", "scene:?width=64&height=64", "--log-json", "--duration", "60")
    started.listen(bool)
    os.kill(started.worker("track"), signal.SIGKILL)
    started.listen(lambda messages: any(message.get("restarts") for message in messages))
    started.process.terminate()
    (said,) = [json.loads(line) for line in started.end().err.splitlines()]
    assert (said["event"], said["level"]) == ("warning", "warning")
    assert said["line"] == "track: the worker died (signal 9); it is started again"


BROKEN = """
import logging, os, threading, warnings
from stream.channel import channel
from stream.workers import work

def main(reports):
    logging.getLogger("a.backend").warning("it\\nmumbles")
    warnings.warn("old")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    raise KeyError("a bug")

work(main, "track", channel()[1], os.getpid(), ())
"""


def test_what_nobody_expected_in_a_worker_is_an_object_a_line() -> None:
    """A bug's traceback, that of a thread, what a library logs and warns of; without the variable they are text."""
    told = {**os.environ, "IRSTREAM_LOG_JSON": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", BROKEN], env=told, capture_output=True, text=True, check=False)
    said = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.returncode == 1
    assert [each["event"] for each in said] == ["log", "log", "traceback", "traceback"]
    assert said[0]["line"] == "it mumbles"
    assert said[2]["traceback"].endswith("ZeroDivisionError: division by zero")
    assert said[3]["process"] == "track"
    assert said[3]["traceback"].startswith("Traceback (most recent call last):\n")
    told.pop("IRSTREAM_LOG_JSON")
    done = subprocess.run([sys.executable, "-c", BROKEN], env=told, capture_output=True, text=True, check=False)
    assert "\nKeyError: 'a bug'\n" in done.stderr


def test_log_json_holds_for_what_is_wrong_too() -> None:
    for wrong, reason in (
        (["--source", "gone.mp4"], "gone.mp4: no such file"),
        (["--sorce"], "--sorce: no such option"),
    ):
        done = call(*COMMANDS["run_pipeline.py"], "--log-json", *wrong)
        assert done.returncode == 2
        (line,) = done.stderr.splitlines()
        said = json.loads(line)
        assert (said["level"], said["event"]) == ("error", "failed")
        assert said["reason"].startswith(reason)


def app_of(module: str, name: str) -> typer.Typer:
    app = typer.Typer()
    app.command()(getattr(importlib.import_module(module), name))
    return app


@pytest.mark.parametrize(
    ("module", "name"), [("engine.bench", "main"), ("stream.soak", "soak"), ("stream.command", "run")]
)
def test_a_help_names_every_engine(module: str, name: str) -> None:
    (said,) = [option.help for option in get_command(app_of(module, name)).params if option.name == "engine"]
    assert all(engine in said for engine in ("auto", *ENGINES))


WRITES = [
    ("engine.bench", "main", ["--model", "rpcanet_plus_k1"]),
    ("engine.build", "main", ["--model", "rpcanet_plus_k1"]),
    ("engine.gpu_check", "main", []),
    ("stream.bench_run", "bench", []),
    ("stream.detect_bench", "main", []),
    ("stream.evaluate", "main", ["--scenes", "0:0"]),
    ("stream.soak", "soak", []),
    ("stream.track_bench", "main", []),
]


@pytest.mark.parametrize(("module", "name", "arguments"), WRITES, ids=[each[0] for each in WRITES])
def test_figures_that_could_not_be_written_are_refused_before_the_work(
    module: str, name: str, arguments: list[str]
) -> None:
    done = CliRunner().invoke(app_of(module, name), [*arguments, "--json", "/no/such/r.json"])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr == "error: --json /no/such/r.json: its folder does not exist\n"
