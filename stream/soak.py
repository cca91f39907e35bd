"""Run the pipeline for long and see that nothing grows: ``python -m stream.soak --minutes 30``."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from engine.base import ENGINES
from engine.one_line import check_output, one_line_errors, run_command
from stream import StreamError
from stream.client import Subscription
from stream.messages import StatusMessage, TracksMessage, WireMessage
from stream.publish import free_endpoint
from stream.usage import PROC, family, name_of, own_shm

COMMAND = Path(__file__).parents[1] / "run_pipeline.py"
SETTLING_MINUTES = 5.0
"""After so long, nothing may grow; shorter runs settle for a third of their time."""
SAMPLE_S = 5.0
MOST_GROWTH = 0.01
MOST_SLOWER = 0.10


@dataclass
class Soak:
    """What was seen, minute by minute: ``[minute][process]`` lists of samples.

    Attributes:
        minutes: of the run.
        pss_mb: memory of each process that is no file's, with its share of what it shares, MB.
        handles: open files of each process.
        shm: entries of the run's in /dev/shm, ``[minute]``.
        latencies_ns: capture to publish of each frame, ``[minute]``.
        pids: the numbers of each process.
        restarts: how often a worker was replaced, by the worker and the reason, ``[stream]``.
        dropped: frames that were, by reason, ``[stream]``.
        missed: messages that did not come to us, ``[stream]``.
    """

    minutes: float
    pss_mb: dict[int, dict[str, list[float]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    handles: dict[int, dict[str, list[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(list)))
    shm: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    latencies_ns: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    pids: dict[int, dict[str, set[int]]] = field(default_factory=lambda: defaultdict(lambda: defaultdict(set)))
    restarts: dict[str, dict[str, int]] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    missed: Counter[str] = field(default_factory=Counter)
    _pids: set[int] = field(default_factory=set)  # that were seen

    def sample(self, pid: int, minute: int) -> None:
        """Look at every process of the run once."""
        processes = family(pid)
        self._pids.update(processes)
        for each in processes:
            try:
                name = "supervisor" if each == pid else name_of(each)
                rollup = (PROC / str(each) / "smaps_rollup").read_text()
                handles = len(os.listdir(PROC / str(each) / "fd"))
            except OSError:  # it ended while we looked
                continue
            # Not of files: a library's pages weigh more whenever another program that shares them ends.
            parts = (rollup.partition(f"\n{key}:")[2].split(maxsplit=1)[0] for key in ("Pss_Anon", "Pss_Shmem"))
            self.pss_mb[minute][name].append(sum(map(int, parts)) / 1024)
            self.handles[minute][name].append(handles)
            self.pids[minute][name].add(each)
        self.shm[minute].append(len(own_shm(self._pids)))

    def rows(self) -> list[dict[str, Any]]:
        """Return a row a minute: medians of memory and handles, the largest of /dev/shm, p99 of latency."""
        return [
            {
                "minute": minute,
                "pss_mb": {n: round(statistics.median(s), 2) for n, s in sorted(self.pss_mb[minute].items())},
                "handles": {n: round(statistics.median(s)) for n, s in sorted(self.handles[minute].items())},
                "dev_shm": max(self.shm[minute]),
                "frames": len(self.latencies_ns[minute]),
                "p99_ms": self.p99_ms([minute]),
            }
            for minute in sorted(self.pss_mb)
        ]

    def p99_ms(self, minutes: list[int]) -> float:
        """Return the 99th percentile of capture to publish in some minutes, ms; 0 if there was no frame."""
        latencies = [ns for minute in minutes for ns in self.latencies_ns[minute]]
        return round(float(np.percentile(latencies, 99)) / 1e6, 3) if latencies else 0.0

    def hear(self, message: WireMessage, minute: int) -> None:
        """Enter what a message says."""
        if isinstance(message, TracksMessage):
            self.latencies_ns[minute].append(message.published_ns - message.captured_ns)
        elif isinstance(message, StatusMessage):
            self.restarts[message.stream] = message.restarts
            self.dropped[message.stream] = message.dropped

    def verdict(self) -> list[str]:
        """Return what grew, by how much, and what failed meanwhile; empty if nothing did."""
        rows = [row for row in self.rows() if row["minute"] < self.minutes]
        settling = max(1, round(min(SETTLING_MINUTES, self.minutes / 3)))
        if len(rows) <= 2 * settling:
            return [f"{len(rows)} minutes were seen; {2 * settling + 1} are needed to tell anything"]
        settled, last = rows[settling], rows[-1]
        faults = self._failures() + self._changes(rows, settling)
        for name, before in settled["pss_mb"].items():
            after = last["pss_mb"].get(name)
            if after is not None and after > before * (1 + MOST_GROWTH):
                faults.append(f"{name}: {before} MB in minute {settling}, {after} MB in the last")
        faults += [
            f"{name}: {before} handles in minute {settling}, {last['handles'].get(name)} in the last"
            for name, before in settled["handles"].items()
            if last["handles"].get(name, 0) > before
        ]
        if last["dev_shm"] > settled["dev_shm"]:
            faults.append(f"/dev/shm: {settled['dev_shm']} entries in minute {settling}, {last['dev_shm']} in the last")
        first = self.p99_ms([row["minute"] for row in rows[:settling]])
        final = self.p99_ms([row["minute"] for row in rows[-settling:]])
        if not first or abs(final - first) > MOST_SLOWER * first:
            faults.append(f"p99 of latency: {first} ms in the first {settling} minutes, {final} ms in the last")
        return faults

    def _failures(self) -> list[str]:
        """Return what a run that only runs does not do."""
        reasons = sorted({reason for restarts in self.restarts.values() for reason in restarts})
        faults = [f"restarted: {reason}" for reason in reasons]
        return faults + [f"{stream}: {count} messages were missed" for stream, count in self.missed.items() if count]

    def _changes(self, rows: list[dict[str, Any]], settling: int) -> list[str]:
        """Return which processes came, went or were replaced once it had settled, and when no frame came."""
        settled, later = set(rows[settling]["pss_mb"]), rows[settling + 1 :]
        faults = []
        for name in sorted(settled.union(*(row["pss_mb"] for row in later))):
            away = [row["minute"] for row in later if name not in row["pss_mb"]]
            others = [m for m in (row["minute"] for row in later) if self.pids[m][name] - self.pids[settling][name]]
            if name not in settled:
                faults.append(f"{name}: it was not there in minute {settling}, but later")
            elif later[-1]["minute"] in away:
                faults.append(f"{name}: it has ended")
            elif away:
                faults.append(f"{name}: it was away in minute {away[0]}")
            elif others:
                faults.append(f"{name}: it is another process since minute {others[0]}")
        return faults + [f"no frame came in minute {row['minute']}" for row in rows if not row["frames"]]


@one_line_errors(StreamError, code=1)
@one_line_errors()
def soak(
    minutes: Annotated[float, typer.Option(help="How long.", min=3, max=10_000)] = 30.0,
    source: Annotated[list[str] | None, typer.Option(help="Instead of the demo's cameras; repeatable.")] = None,
    engine: Annotated[str, typer.Option(help=f"auto, null, {', '.join(ENGINES)}.")] = "auto",
    json_to: Annotated[str | None, typer.Option("--json", help="Write the figures as JSON; - is stdout.")] = None,
) -> None:
    """Run the pipeline, look at its memory, handles, shared memory and latency, and say whether any of it grew.

    Exits with 0 if nothing did: after the first 5 minutes no process's memory
    by 1 %, its handles or /dev/shm at all, the 99th percentile of latency
    of the last 5 minutes is within 10 % of the first 5's, and no process came,
    went or was replaced. No worker may be restarted and no message missed at all.
    """
    check_output("--json", json_to)
    console = Console(stderr=json_to == "-", highlight=False, soft_wrap=True)
    endpoint = free_endpoint()
    command = [sys.executable, str(COMMAND), "--publish", endpoint, "--engine", engine, "--duration", str(60 * minutes)]
    for each in source or []:
        command += ["--source", each]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        seen = _watch(process, endpoint, minutes, console)
    except StreamError:
        if code := process.poll():  # it has said why
            raise SystemExit(code) from None
        raise
    finally:
        process.terminate()
        code = process.wait()
    faults = seen.verdict() + ([f"the run ended with exit code {code}"] if code else [])
    if json_to:
        text = (
            json.dumps({"minutes": minutes, "rows": seen.rows(), "dropped": seen.dropped, "faults": faults}, indent=2)
            + "\n"
        )
        if json_to == "-":
            sys.stdout.write(text)
        else:
            Path(json_to).write_text(text)
    console.print("nothing grew" if not faults else "\n".join(faults))
    raise typer.Exit(bool(faults))


def _watch(process: subprocess.Popen[bytes], endpoint: str, minutes: float, console: Console) -> Soak:
    seen, begun, due, said = Soak(minutes), 0.0, 0.0, 0
    with Subscription(endpoint, kinds=("tracks", "status"), timeout=60.0) as messages:
        for message in messages:
            now = time.monotonic()
            begun = begun or (now if isinstance(message, TracksMessage) else 0.0)
            if not begun:
                continue
            minute = int((now - begun) / 60)
            seen.hear(message, minute)
            if now >= due:
                due = now + SAMPLE_S
                seen.sample(process.pid, minute)
                if minute > said:
                    said = minute
                    _say(seen.rows()[said - 1], console)
            if now - begun >= 60 * minutes - SAMPLE_S or process.poll() is not None:
                break
        seen.missed = messages.missed
    if not begun:
        raise StreamError("no frame came")
    return seen


def _say(row: dict[str, Any], console: Console) -> None:
    memory = ", ".join(f"{name} {mb:.1f}/{row['handles'][name]}" for name, mb in row["pss_mb"].items())
    console.print(
        f"minute {row['minute']}: {row['frames']} frames, p99 {row['p99_ms']} ms, /dev/shm {row['dev_shm']}; "
        f"MB/handles: {memory}"
    )


if __name__ == "__main__":
    run_command(soak)
