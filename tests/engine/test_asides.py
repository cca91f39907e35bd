"""What is said on standard error is a line for people, or one JSON object a line where a run was asked for that."""

import json
from datetime import datetime

import pytest

from engine.asides import AS_JSON, fail, say_traceback, tell, warn

SAYS = [
    (
        "what was wrong, on one line",
        lambda: fail("x.yaml:\n no such key"),
        "error: x.yaml: no such key",
        "failed",
        "reason",
    ),
    ("what goes on all the same", lambda: warn("the disk is full"), "warning: the disk is full", "warning", "line"),
    ("why nothing happens", lambda: tell("waiting for 2"), "waiting for 2", "note", "line"),
]


@pytest.mark.parametrize(("why", "say", "line", "event", "key"), SAYS, ids=[case[0] for case in SAYS])
def test_a_line_or_an_object(why, say, line, event, key, capsys, monkeypatch):
    """The object has its time in UTC and what a line would say."""
    monkeypatch.delenv(AS_JSON, raising=False)
    say()
    monkeypatch.setenv(AS_JSON, "1")
    say()
    out, err = capsys.readouterr()
    plain, said = err.splitlines()
    assert (out, plain) == ("", line)
    said = json.loads(said)
    assert said["event"] == event
    assert line.endswith(said[key])
    assert datetime.fromisoformat(said["timestamp"]).utcoffset().total_seconds() == 0


def test_a_traceback_is_one_object(capsys, monkeypatch):
    """With its lines inside, and the process that it comes from."""
    monkeypatch.setenv(AS_JSON, "1")
    try:
        raise KeyError("a bug")
    except KeyError as error:
        say_traceback(error, "track")
    said = json.loads(capsys.readouterr().err)
    assert (said["event"], said["process"]) == ("traceback", "track")
    assert said["traceback"].splitlines()[-1] == "KeyError: 'a bug'"
