"""The books and the report: every frame is published or dropped, and each figure can be found again."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from stream.books import StreamBook
from stream.config import Config, StreamConfig
from stream.frame import Hello, Passed
from stream.report import latency_table, streams_table, write_report

MS = 1_000_000
ROW = tuple(round(value * MS) for value in (0.5, 1.0, 11.0, 11.5, 11.75, 12.0))


@pytest.fixture
def book() -> StreamBook:
    book = StreamBook("sky", "scene:", Hello(0, 320, 256, 8, 30.0, live=True), started=time.monotonic() - 10)
    book.add(Passed(0, 60, [ROW] * 60, {"superseded": 3}, 2, 4, ended=False, fault=None))
    book.add(Passed(0, 100, [ROW] * 40, {"superseded": 1, "no free slot": 2}, 1, 5, ended=True, fault=None))
    return book


def test_frames_are_what_was_published_and_what_was_dropped(book: StreamBook) -> None:
    assert (book.published, dict(book.dropped), book.frames) == (100, {"superseded": 4, "no free slot": 2}, 106)


def test_a_rate_is_a_count_over_the_span_of_the_last_two_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    book = StreamBook("sky", "scene:", started=100.0)
    published = 0
    for _ in range(20):  # thirty a second, reported each quarter of a second in bursts of 7 and 8
        for frames in (7, 8):
            clock[0] += 0.25
            published += frames
            book.add(Passed(0, published, [ROW] * frames, {}, 0, 0, ended=False, fault=None))
    assert book.fps() == pytest.approx(30, abs=1.1)
    assert book.mean_fps() == pytest.approx(30)
    clock[0] += 2.5
    assert book.fps() == 0


def test_a_status_tells_of_the_time_since_the_last_one(book: StreamBook) -> None:
    first, second = book.status(), book.status()
    assert first.latency_ms == pytest.approx({"p50": 12, "p99": 12, "max": 12})
    assert second.latency_ms["max"] == 0
    assert first.health == "ended"


def test_the_report_has_the_keys_that_others_rely_on(book: StreamBook, tmp_path: Path) -> None:
    config = Config(streams=(StreamConfig(name="sky", source="scene:"),))
    write_report(str(tmp_path / "r.json"), config, [book])
    content = json.loads((tmp_path / "r.json").read_text())
    assert set(content["end_to_end_ms"]) == {"p50", "p90", "p99", "p999", "max"}
    assert content["stages_ms"]["engine"]["p50"] == pytest.approx(10, rel=2e-3)
    (stream,) = content["streams"]
    assert (stream["frames"], stream["published"], stream["dropped"]) == (106, 100, 6)
    assert stream["dropped_by_reason"] == {"superseded": 4, "no free slot": 2}


def test_what_a_device_took_is_told_where_it_tells(book: StreamBook, tmp_path: Path) -> None:
    """A row a step in the table, and keys in the report; nothing of an engine that has no device of its own."""
    config = Config(streams=(StreamConfig(name="sky", source="scene:"),))

    def told() -> tuple[list[str], dict[str, dict[str, float]]]:
        write_report(str(tmp_path / "r.json"), config, [book])
        steps = list(latency_table([book]).columns[0].cells)
        return [str(step) for step in steps], json.loads((tmp_path / "r.json").read_text())["device_ms"]

    rows, figures = told()
    assert figures == {}
    book.device.add([[0.25, 3.0, 0.5]] * 10)
    more, figures = told()
    at = rows.index("engine") + 1
    assert more == [*rows[:at], "  upload, of a batch", "  compute, of a batch", "  download, of a batch", *rows[at:]]
    assert {step: row["p50"] for step, row in figures.items()} == pytest.approx(
        {"upload": 0.25, "compute": 3.0, "download": 0.5}, rel=2e-3
    )


@pytest.mark.parametrize("width", [80, 160])
def test_tables_fit_a_terminal_and_say_why_frames_were_dropped(book: StreamBook, width: int) -> None:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(streams_table([book], final=True))
    console.print(latency_table([book]))
    text = console.export_text()
    assert "…" not in text
    assert "sky dropped 4: superseded" in text
    assert "end to end" in text
