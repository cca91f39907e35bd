"""The report of a run as one page that stands alone, for someone who was not there."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from stream.batcher import SUPERSEDED
from stream.books import StreamBook
from stream.charts import Series, histogram, lifetimes, line_chart, paths
from stream.config import Config
from stream.frame import STAGES, TrackSummary
from stream.latency import Latency
from stream.report import what_ran
from stream.sources import masked
from stream.workers.capture import LOST, NO_SLOT

WIDE, NARROW = 1000, 340  # CSS pixels that a chart is drawn for
MOST_TRACKS = 24  # drawn and listed a stream
SHOWN = ("av", "msgspec", "numpy", "onnxruntime", "opencv-python-headless", "openvino", "pyzmq", "tensorrt")
WHAT_STAGES_DO = {
    "capture": "from the frame's last byte (or the moment it was due) to its copy in shared memory",
    "queue": "waiting for the engine to be free",
    "engine": "the network: frame to target map",
    "detect": "target map to detections",
    "track": "detections to tracks",
    "publish": "tracks to ZeroMQ",
}
WHY_DROPPED = {
    SUPERSEDED: "a fresher frame of the stream came before the engine was free: the engine is too slow",
    NO_SLOT: "every slot of the ring was in use: a later stage is too slow",
    LOST: "the source itself says that they never arrived",
}
NOT_ENDED = "The stream did not end by itself, so its tracks are not known."
STYLE = (Path(__file__).parent / "report_page.css").read_text(encoding="utf-8")


def report_page(config: Config, books: Sequence[StreamBook], content: dict[str, Any]) -> str:
    """Return the page of a run, HTML with all that it needs inside.

    Args:
        config: what was run.
        books: the streams' books.
        content: the same report as JSON holds it; it is kept in the page for programs.
    """
    total = Latency()
    for book in books:
        total.merge(book.latency)
    sections = [
        ("Latency", _latency(total, books)),
        ("Streams", _streams(books)),
        ("Drops", _drops(books)),
        ("Tracks", "".join(_tracks(book) for book in books)),
        ("Configuration", f"<pre>{escape(_yaml(config))}</pre>"),
        ("Machine", _table(("", ""), machine() + _models(books), css="")),
    ]
    body = "".join(f"<section><h2>{title}</h2>{inside}</section>" for title, inside in sections)
    data = json.dumps(content).replace("<", "\\u003c")  # no text of ours may end the script
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>irstream run, {_now()}</title><style>{STYLE}</style></head><body><main>"
        f"<header><h1>irstream run</h1>{_summary(config, books, total)}</header>{body}"
        f"<footer>Made by irstream {_version('irstream')}. This page holds the figures as JSON too, in its element "
        f"<code>report</code>.</footer></main>"
        f'<script type="application/json" id="report">{data}</script></body></html>\n'
    )


def machine() -> list[tuple[str, str]]:
    """Return what the run was made on, as names and values."""
    rows = [
        ("CPU", _first_line("/proc/cpuinfo", "model name") or platform.machine()),
        ("cores that it may use", str(len(os.sched_getaffinity(0)))),
        ("memory", f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"),
        ("system", platform.platform()),
        ("Python", platform.python_version()),
    ]
    return rows + [(name, found) for name in SHOWN if (found := _version(name)) != "?"]


def _models(books: Sequence[StreamBook]) -> list[tuple[str, str]]:
    """Return what frames went through, as names and values."""
    loaded = {f"{each.model}, {each.bits} bit": each for book in books if (each := book.ran)}
    return [(name, f"weights {each.weights_sha256[:16]} ... (SHA-256)") for name, each in loaded.items()]


def _summary(config: Config, books: Sequence[StreamBook], total: Latency) -> str:
    frames, published = sum(book.frames for book in books), sum(book.published for book in books)
    dropped = frames - published
    seconds = max((book.stopped - book.started for book in books if book.published), default=0.0)
    late = total.end_to_end_ms()
    cards = [
        (f"{late['p50']:.1f} ms", "median latency, capture to publish"),
        (f"{late['p99']:.1f} ms", "99 of 100 frames are sooner"),
        (f"{published:,}", f"frames published of {frames:,}"),
        (f"{dropped:,}", f"frames dropped ({100 * dropped / max(frames, 1):.1f} %)"),
        (str(sum(book.confirmed for book in books)), "confirmed tracks"),
    ]
    many = f"{len(books)} stream{'s' * (len(books) != 1)}"
    ran = what_ran(books) or [(Path(config.model).name, f"engine {config.engine}, which was never loaded")]
    through = " and ".join(f"<b>{escape(model)}</b> on <b>{escape(engine)}</b>" for model, engine in ran)
    faults = "".join(f'<p class="fault">{escape(book.name)}: {escape(book.fault)}</p>' for book in books if book.fault)
    return (
        f"<p>Infrared video of {many} through {through} for {_duration(seconds)}, ended "
        f"{_now()}. A network finds small targets in each frame, a tracker follows them; latency counts from the "
        f"moment a frame was captured to the moment its tracks were published.</p>{faults}"
        f'<div class="cards">{"".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in cards)}</div>'
    )


def _latency(total: Latency, books: Sequence[StreamBook]) -> str:
    device = {f"{step}, of a batch": figures for step, figures in books[0].device.steps_ms().items()}
    stages = {**total.stages_ms(), **device, "end to end": total.end_to_end_ms()}
    rows = [
        (stage, *(f"{figures[key]:.2f}" for key in ("p50", "p90", "p99", "p999", "max")), WHAT_STAGES_DO.get(stage, ""))
        for stage, figures in stages.items()
    ]
    found = total.distributions()
    late = total.end_to_end_ms()
    marks = [("p50", late["p50"]), ("p99", late["p99"]), ("max", late["max"])]
    parts = [
        _table(("stage, ms", "p50", "p90", "p99", "p99.9", "max", "what it is"), rows, ["what it is"]),
        "<h3>How late frames were, end to end</h3>",
        "<p>Each bar is the share of frames with that latency, in ms, on a logarithmic scale.</p>",
        _both(lambda width: histogram(found["end to end"], marks, width, 200, "ms")),
        '<h3>What each stage took</h3><div class="tiles">',
        *(
            f"<figure><figcaption>{stage}</figcaption>{histogram(found[stage], (), 310, 120, 'ms')}</figure>"
            for stage in STAGES
        ),
        "</div>",
    ]
    parts += [_over_time(book, len(books) > 1) for book in books if book.published]
    return "".join(parts)


def _over_time(book: StreamBook, named: bool) -> str:
    span = book.history.span_s
    bins = list(enumerate(book.history.bins))
    late = [
        Series("max", "max", [((i + 0.5) * span, each.max_ms if each.published else None) for i, each in bins]),
        Series("p99", "p99", [((i + 0.5) * span, each.percentile_ms(99)) for i, each in bins]),
        Series("p50", "p50", [((i + 0.5) * span, each.percentile_ms(50)) for i, each in bins]),
    ]
    full = len(bins[:-1] or bins)  # the last span was cut short by the end: its rate would look like a fall
    rate = [
        Series(
            "published", "p50", [((i + 0.5) * span, each.published / span if i < full else None) for i, each in bins]
        ),
        Series("dropped", "drop", [((i + 0.5) * span, each.dropped / span if i < full else None) for i, each in bins]),
    ]
    title = f"Over time{', ' + escape(book.name) if named else ''}"
    return (
        f"<h3>{title}</h3>"
        f"<p>Latency of each {_duration(span)}, ms, on a logarithmic scale: {_legend(reversed(late))}</p>"
        f"{_both(lambda width: line_chart(late, width, 190, 's', y_log=True))}"
        f"<p>Frames a second: {_legend(rate)}</p>{_both(lambda width: line_chart(rate, width, 120, 's'))}"
    )


def _streams(books: Sequence[StreamBook]) -> str:
    rows = []
    for book in books:
        hello, late = book.hello, book.latency.end_to_end_ms()
        size = f"{hello.width}x{hello.height}, {hello.bits} bit" if hello else "never opened"
        stated = f"{hello.fps:.4g}" if hello and hello.fps else "?"
        rows.append(
            (book.name, size, stated, f"{book.mean_fps():.1f}", f"{book.published:,}", f"{book.dropped.total():,}",
             str(book.confirmed), f"{late['p50']:.1f}", f"{late['p99']:.1f}", book.source)
        )  # fmt: skip
    head = ("stream", "size", "stated frames/s", "published frames/s", "published", "dropped", "tracks", "p50 ms",
            "p99 ms", "source")  # fmt: skip
    text = _table(head, rows, ["source"])
    if any(book.recorded or book.not_recorded for book in books):
        kept = [
            (book.name, f"{book.recorded:,}", f"{book.recorded_bytes / 1e6:,.1f}", f"{book.not_recorded.total():,}",
             ", ".join(f"{reason} {count}" for reason, count in book.not_recorded.items()))
            for book in books
        ]  # fmt: skip
        text += "<h3>Recorded</h3>" + _table(("stream", "frames", "MB", "not recorded", "why"), kept, ["why"])
    return text


def _drops(books: Sequence[StreamBook]) -> str:
    rows = [
        (book.name, f"{count:,}", f"{100 * count / max(book.frames, 1):.2f} %", reason, WHY_DROPPED.get(reason, ""))
        for book in books
        for reason, count in book.dropped.most_common()
    ]
    if not rows:
        return "<p>None: every frame that the sources gave was published.</p>"
    return _table(("stream", "frames", "of its frames", "reason", "what it means"), rows, ["reason", "what it means"])


def _tracks(book: StreamBook) -> str:
    title = f"<h3>{escape(book.name)}</h3>"
    shown = sorted(book.summaries[:MOST_TRACKS], key=lambda summary: summary.start_s)
    if not shown or not book.hello:
        if not book.hello:
            return f"{title}<p>It was never opened.</p>"
        return f"{title}<p>{'No target was tracked.' if book.ended else NOT_ENDED}</p>"
    said = f"{book.confirmed} confirmed"
    if len(shown) < book.confirmed:
        said += f", the {len(shown)} longest shown"
    duration = max(book.stopped - book.started, *(summary.end_s for summary in shown))
    frame = book.hello.width, book.hello.height
    routes = [(summary.id, summary.path) for summary in shown]
    spans = [(summary.id, summary.start_s, summary.end_s) for summary in shown]
    drawn = paths(frame, routes, NARROW), lifetimes(spans, duration, NARROW)
    return (
        f"{title}<p>{said}: where they went (the dot is the end), and when they were there.</p>"
        f'<div class="pair"><div>{drawn[0]}</div><div>{drawn[1]}</div></div>'
        f"<details><summary>Figures</summary>{_tracks_table(shown)}</details>"
    )


def _tracks_table(shown: Sequence[TrackSummary]) -> str:
    rows = [
        (str(summary.id), f"{summary.start_s:.2f}", f"{summary.end_s - summary.start_s:.2f}", f"{summary.frames:,}",
         f"{summary.coasted:,}", "{:.0f}, {:.0f}".format(*summary.path[0]), "{:.0f}, {:.0f}".format(*summary.path[-1]))
        for summary in shown
    ]  # fmt: skip
    return _table(("track", "from, s", "for, s", "frames", "of them unseen", "began at", "ended at"), rows)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[str] = (), css: str = "numbers") -> str:
    """Return a table; on a narrow screen it scrolls by itself, not the page. Columns of ``words`` may wrap."""
    marks = [' class="words"' if title in words else "" for title in head]
    titles = "".join(f"<th{mark}>{escape(title)}</th>" for mark, title in zip(marks, head, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(cell)}</td>" for mark, cell in zip(marks, row, strict=True)) + "</tr>"
        for row in rows
    )
    shown = f"<thead><tr>{titles}</tr></thead>" if any(head) else ""
    return f'<div class="scroll"><table class="{css}">{shown}<tbody>{body}</tbody></table></div>'


def _both(draw: Callable[[int], str]) -> str:
    return f'<div class="wide">{draw(WIDE)}</div><div class="narrow">{draw(NARROW)}</div>'


def _legend(series: Iterable[Series]) -> str:
    return " ".join(f'<span class="key {line.css}">{line.name}</span>' for line in series)


def _yaml(config: Config) -> str:
    said = config.model_dump(mode="json")
    for stream in said["streams"]:
        stream["source"] = masked(stream["source"])
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.3g} s"
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes} min {left} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _first_line(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
