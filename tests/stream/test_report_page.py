"""The report page stands alone, hides credentials, and says of a run what its books say, whatever they hold."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from stream.books import StreamBook
from stream.charts import Series, _log_ticks, _ticks, histogram, line_chart
from stream.config import Config
from stream.frame import STAGES, Hello, Loaded, Passed, Recorded, TrackSummary
from stream.history import MOST_BINS, History
from stream.report import write_report
from stream.sources import masked
from stream.track import Track
from stream.track_log import MOST_POINTS, MOST_TRACKS, TrackLog

VOID = {"meta"}
CAMERA = "rtsp://operator:hunter2@camera.example/stream?token=s3cret"


class Outline(HTMLParser):
    """Checks that every element is closed in its turn; keeps the text, and what is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def config() -> Config:
    streams = [{"name": "mast", "source": CAMERA}, {"name": "never", "source": "scene:"}]
    return Config.model_validate({"streams": streams})


def books(clock: list[float]) -> list[StreamBook]:
    """Two streams: one of two minutes with drops and tracks, one that never opened."""
    random = np.random.default_rng(0)
    mast = StreamBook("mast", masked(CAMERA), hello=Hello(0, 640, 512, 16, 50.0, True), started=1000.0)
    for second in range(120):
        clock[0] = 1000.0 + second
        took = random.gamma(8, 0.5 + (40 < second < 60), (50, len(STAGES))) * [0.1, 0.5, 3, 0.3, 0.1, 0.01]
        rows = [tuple(int(ns) for ns in row) for row in (took.cumsum(axis=1) * 1e6)]
        dropped = {"superseded": 7, "no free slot": 1} if 40 < second < 60 else {}
        mast.add(Passed(0, 50 * (second + 1), rows, dropped, 2, 3, ended=False, fault=None))
    route = [(x, 200 + 60 * np.sin(x / 90)) for x in range(20, 600, 10)]
    summaries = [TrackSummary(1, 3.0, 80.0, 3850, 40, route), TrackSummary(7, 70.0, 119.0, 2450, 3, route[::-1])]
    mast.add(Passed(0, 6000, [], {"<script>alert(1)</script>": 2}, 0, 3, True, "camera <gone> & silent", summaries))
    mast.record(Recorded(0, 5900, 10**9, {"recorder too slow": 100}))
    mast.stopped = 1120.0
    mast.loaded = [Loaded(8, "openvino", "rpcanet_plus_k1", "0" * 64), Loaded(16, "cuda", "mine & deep", "1" * 64)]
    return [mast, StreamBook("never", "scene:")]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that the books go by, to be set."""
    now = [0.0]
    monkeypatch.setattr("stream.books.time.monotonic", lambda: now[0])
    return now


def page_of(path: Path, given: list[StreamBook]) -> tuple[str, Outline]:
    write_report(str(path), config(), given)
    text, outline = path.read_text(encoding="utf-8"), Outline()
    outline.feed(text)
    assert outline.open == []
    return text, outline


def test_the_page_stands_alone_and_says_what_the_books_say(tmp_path: Path, clock: list[float]) -> None:
    """Well-formed, nothing fetched, no credential, no markup of others; the figures are those of the JSON report."""
    given = books(clock)
    text, outline = page_of(tmp_path / "r.html", given)
    write_report(str(tmp_path / "r.json"), config(), given)
    assert outline.fetched == []
    assert not re.search(r"@import|url\(", text)
    assert "hunter2" not in text
    assert "s3cret" not in text
    assert text.count("<script") == 1
    words = " ".join(outline.words)
    for said in ("rtsp://operator:***@camera.example", "camera <gone> & silent", "superseded", "recorder too slow"):
        assert said in words
    inside = re.search(r'<script type="application/json" id="report">(.*?)</script>', text, re.DOTALL)
    assert inside
    assert json.loads(inside[1]) == json.loads((tmp_path / "r.json").read_text())
    assert text.count("frames published of") == 1
    assert "through <b>mine &amp; deep</b> on <b>cuda</b> for" in text  # what the 16-bit frames went through
    assert f"{given[0].published:,}" in words


def test_a_run_that_published_nothing_has_a_page_too(tmp_path: Path) -> None:
    """Nobody's mistake may cost the report."""
    _, outline = page_of(tmp_path / "r.html", [StreamBook("mast", "gone"), StreamBook("never", "scene:")])
    words = " ".join(outline.words)
    assert "nothing was published" in words
    assert "never opened" in words
    assert "engine auto, which was never loaded" in words


def test_history_counts_everything_in_bounded_memory() -> None:
    """Three hours in seconds, then in longer spans: no frame is lost, percentiles are right within a bucket."""
    history, random = History(), np.random.default_rng(1)
    given = []
    for second in range(3 * 3600):
        latencies = (random.gamma(4, 5, 3) * 1e6).astype(int).tolist()
        given += latencies
        history.add(second + 0.5, latencies, dropped=1)
    assert len(history.bins) <= MOST_BINS
    assert sum(each.published for each in history.bins) == len(given)
    assert sum(each.dropped for each in history.bins) == 3 * 3600
    assert max(each.max_ms for each in history.bins) == max(given) / 1e6
    first = given[: 3 * int(history.span_s)]
    for percent in (50, 99):
        found = history.bins[0].percentile_ms(percent)
        assert found == pytest.approx(np.percentile(first, percent, method="inverted_cdf") / 1e6, rel=0.06)


def test_the_log_of_tracks_keeps_the_longest_and_thins_their_paths() -> None:
    """One track that is there always and a thousand short ones: bounded, the long one whole from start to end."""
    log = TrackLog()
    for frame in range(2000):
        tracks = [_track(1, frame), _track(2 + frame // 2, frame)]
        log.add(tracks, 5_000_000_000 + frame * 10_000_000)
    longest = log.longest()
    assert len(longest) == MOST_TRACKS
    first = longest[0]
    assert (first.id, first.frames, first.start_s, first.end_s) == (1, 2000, 0.0, pytest.approx(19.99))
    assert MOST_POINTS // 2 <= len(first.path) <= MOST_POINTS
    xs = [x for x, _ in first.path]
    assert xs == sorted(xs)
    assert Counter(np.diff(xs)).most_common(1)[0][1] == len(xs) - 1


def _track(id_: int, frame: int) -> Track:
    shape = dict.fromkeys(("vx", "vy", "score", "area", "peak", "scr"), 0.0)
    return Track(id=id_, state="confirmed", x=float(frame), y=1.0, cov=(0.0,) * 16, hits=1, age=1, **shape)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.003), (0, 7200), (0, 30.7), (0, 19)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = _ticks(low, high, 5)
    assert 2 <= len(ticks) <= 6
    assert all(low <= tick <= high for tick in ticks)


def test_log_ticks_are_few() -> None:
    assert _log_ticks(0.9, 110, 8) == [1, 2, 5, 10, 20, 50, 100]
    assert _log_ticks(0.001, 1000, 8) == [0.001, 0.01, 0.1, 1, 10, 100, 1000]


def test_charts_of_one_point_and_of_none_are_drawn() -> None:
    """The shortest runs have a chart, not a division by zero."""
    for points in ([], [(0.5, None)], [(0.5, 0.0)], [(0.5, 3.0)]):
        for y_log in (False, True):
            assert line_chart([Series("p50", "p50", points)], 300, 100, "s", y_log).startswith("<svg")
    assert histogram([], (), 300, 100, "ms").startswith("<svg")
    assert histogram([(0.0, 1)], [("p50", 0.0)], 300, 100, "ms").startswith("<svg")
