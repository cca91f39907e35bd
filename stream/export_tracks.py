"""Recorded messages as files: CSV, MOTChallenge, JSON lines."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import TextIO

import msgspec

from stream.messages import TracksMessage, WireTrack, decode
from stream.record import RecordedMessage, RecordingError

TRACK_COLUMNS = tuple(name for name in WireTrack.__struct_fields__ if name != "cov")
COLUMNS = ("stream", "seq", "captured_utc_ns", *TRACK_COLUMNS)


def write_csv(messages: Iterable[RecordedMessage], path: Path) -> str:
    """Write a row a track and frame, tentative tracks included; return what was written, for people."""
    rows = 0
    with _open(path) as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for message in _tracks(messages):
            for track in message.tracks:
                values = (getattr(track, name) for name in TRACK_COLUMNS)
                table.writerow((message.stream, message.seq, message.captured_utc_ns, *values))
                rows += 1
    return f"{rows} rows"


def write_mot(messages: Iterable[RecordedMessage], folder: Path) -> str:
    """Write MOTChallenge's text format, a file ``STREAM.txt`` a stream; return what was written, for people.

    Rows are ``frame,id,left,top,width,height,confidence,-1,-1,-1``: confirmed and coasting tracks,
    frames from 1 (``seq + 1``), pixels from 1. A track has a centre and an area and no box: its box is
    the square of that area round its centre. The confidence is the track's score.
    """
    rows: dict[str, int] = {}
    files: dict[str, TextIO] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecordingError(f"{folder}: {error.strerror or error}; a folder is expected") from None
    with ExitStack() as stack:
        for message in _tracks(messages):
            if message.stream not in files:
                files[message.stream] = stack.enter_context(_open(folder / f"{message.stream}.txt"))
                rows[message.stream] = 0
            for track in message.tracks:
                if track.state != "tentative":
                    files[message.stream].write(_mot_row(message.seq, track))
                    rows[message.stream] += 1
    return ", ".join(f"{stream}.txt {count} rows" for stream, count in rows.items()) or "nothing"


def _mot_row(seq: int, track: WireTrack) -> str:
    side = max(1.0, track.area**0.5)
    left, top = (
        track.x - side / 2 + 1.5,
        track.y - side / 2 + 1.5,
    )  # ours is 0 at a pixel's centre, theirs 1 at its edge
    return f"{seq + 1},{track.id},{left:.3f},{top:.3f},{side:.3f},{side:.3f},{track.score:.3f},-1,-1,-1\n"


def write_jsonl(messages: Iterable[RecordedMessage], path: Path) -> str:
    """Write every message as a line of JSON, as on the wire; return what was written, for people."""
    lines = 0
    with _open(path) as file:
        for message in messages:
            file.write(msgspec.json.encode(decode(message.topic, message.payload)).decode() + "\n")
            lines += 1
    return f"{lines} lines"


def _tracks(messages: Iterable[RecordedMessage]) -> Iterable[TracksMessage]:
    for recorded in messages:
        if recorded.topic.startswith("tracks/"):
            message = decode(recorded.topic, recorded.payload)
            assert isinstance(message, TracksMessage)
            yield message


def _open(path: Path) -> TextIO:
    try:
        return path.open("w", newline="", encoding="utf-8")
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror or error}; a file that can be written is expected") from None
