"""A real Prometheus scrapes the server and answers with what the pipeline said."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline import ROOT, Run

LIMIT_S = 60.0


def get(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return json.loads(answer.read() or b"null")


@contextmanager
def scraping(folder: Path, port: int, target: str, token: str) -> Iterator[str]:
    """Have a Prometheus scrape a server; yield where it answers."""
    program = shutil.which("prometheus")
    if not program:
        pytest.skip("no prometheus; Debian's package prometheus has one")
    config = folder / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "250ms"},
                "scrape_configs": [
                    {
                        "job_name": "irstream",
                        "static_configs": [{"targets": [target]}],
                        "authorization": {"credentials": token},
                    }
                ],
            }
        )
    )
    process = subprocess.Popen(
        [program, f"--config.file={config}", f"--storage.tsdb.path={folder}/data",
         f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def prometheus(view: Callable[..., Any], tmp_path: Path, unused_port: int) -> Iterator[str]:
    """Scrape a server beyond loopback, which asks for its token; yield where Prometheus answers."""
    served = view(address="0.0.0.0:0", environment={"IRSTREAM_TOKEN": "a token of ours"})
    port = served.url.partition("/?")[0].rpartition(":")[2]
    with scraping(tmp_path, unused_port, f"127.0.0.1:{port}", "a token of ours") as answers:
        yield answers


def ask(prometheus: str, query: str) -> dict[tuple[str, ...], float]:
    try:
        answer = get(f"{prometheus}/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    except urllib.error.URLError:  # it starts
        return {}
    assert answer["status"] == "success", answer
    return {
        tuple(value for name, value in sorted(each["metric"].items()) if not name.startswith("__")): float(
            each["value"][1]
        )
        for each in answer["data"]["result"]
    }


def wait_for(prometheus: str, query: str, what: str = "") -> dict[tuple[str, ...], float]:
    end = time.monotonic() + LIMIT_S
    while not (found := ask(prometheus, query)):
        assert time.monotonic() < end, f"{what} Prometheus never had {query}"
        time.sleep(0.1)
    return found


def test_a_real_prometheus_takes_the_metrics(prometheus: str, pipeline: Any) -> None:
    pipeline.wait_for("status/")
    pipeline.send(pipeline.status(frames=70, dropped={"superseded": 3}))
    pipeline.wait_for("tracks/")
    for _ in range(10):
        pipeline.send(pipeline.tracks(late_ms=12))
    assert wait_for(prometheus, "sum by (stream) (irstream_latency_seconds_count == 10)") == {("sky",): 10}
    assert wait_for(prometheus, "sum by (reason) (irstream_dropped_frames_total)") == {("superseded",): 3}
    assert wait_for(prometheus, "sum(irstream_frames_total)") == {(): 70}
    slowest = wait_for(prometheus, "sum by (stream) (irstream_latency_seconds_sum) / 10")
    assert slowest[("sky",)] == pytest.approx(0.012, abs=1e-4)


def test_every_query_of_the_dashboard_is_answered_of_a_run(tmp_path: Path, unused_port: int) -> None:
    """Two cameras before an engine that is too slow, so that there are drops: no panel is empty, none shows NaN."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{probe.getsockname()[1]}"
    board = json.loads((ROOT / "configs" / "grafana.json").read_text())
    cameras = [word for seed in (1, 2) for word in ("--source", f"scene:?seed={seed}&width=64&height=64&fps=20")]
    running = Run(*cameras, "--engine", "null:60", "--metrics", target, "--duration", 600)
    try:
        with scraping(tmp_path, unused_port, target, "none is asked for") as prometheus:
            (streams,) = [v["query"]["query"] for v in board["templating"]["list"] if v["name"] == "stream"]
            metric = re.fullmatch(r"label_values\((\w+), stream\)", streams)
            assert metric
            wait_for(prometheus, metric[1])
            choice = get(f"{prometheus}/api/v1/label/stream/values?{urllib.parse.urlencode({'match[]': metric[1]})}")
            assert choice["data"] == ["scene", "scene_2"]
            for panel in board["panels"]:
                assert panel["datasource"] == {"type": "prometheus", "uid": "${source}"}
                for each in panel["targets"]:
                    query = each["expr"].replace("$stream", ".*").replace("$__rate_interval", "5s")
                    assert "$" not in query
                    wait_for(prometheus, f"({query}) >= 0", panel["title"])
            assert wait_for(prometheus, "sum by (stream) (irstream_dropped_frames_total) > 0").keys() == {
                ("scene",), ("scene_2",)
            }  # fmt: skip
    finally:
        running.process.terminate()
        outcome = running.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err


def test_health_and_readiness_follow_the_pipeline(view: Callable[..., Any], pipeline: Any) -> None:
    """No token is asked for these two; ready is who has every stream's frames."""
    base = view(address="0.0.0.0:0").url.partition("/?")[0].rpartition(":")[2]

    def code(path: str) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{base}{path}", timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return int(error.code)

    def becomes(path: str, expected: int) -> None:
        end = time.monotonic() + LIMIT_S
        while code(path) != expected:
            assert time.monotonic() < end, f"{path} never answered {expected}"
            time.sleep(0.1)

    assert (code("/healthz"), code("/readyz"), code("/metrics")) == (200, 503, 403)  # it waits for a pipeline
    pipeline.wait_for("status/")
    over = threading.Event()

    def keep_saying(*messages: Any) -> threading.Thread:
        def say() -> None:
            while not over.wait(0.2):
                pipeline.send(*messages)

        thread = threading.Thread(target=say)
        thread.start()
        return thread

    for streams, ready in (({"sky": "ok", "sea": "silent"}, 503), ({"sky": "ok", "sea": "ok"}, 200)):
        over.clear()
        saying = keep_saying(*(pipeline.status(name, health=health) for name, health in streams.items()))
        becomes("/readyz", ready)
        becomes("/healthz", 200)
        over.set()
        saying.join()
    becomes("/healthz", 503)  # nothing is heard any more
    becomes("/readyz", 503)
