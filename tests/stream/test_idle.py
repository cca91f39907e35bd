"""A pipeline whose cameras show nothing new leaves the CPU alone."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.pipeline import Run, processes

SPAN_S = 4.0
SPINNING = 0.04  # of a core; asked is 0.02, idle is under a hundredth, a loop that spins is all of one


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_no_process_spins_while_nothing_comes() -> None:
    """Two cameras have shown their first frame and show the next in minutes: no process uses a 25th of a core."""
    run = Run(
        "--source", "scene:?seed=1&width=64&height=64&fps=0.01", "--source", "scene:?width=64&height=64&fps=0.01",
        "--engine", "null", "--wait-for", 1,
    )  # fmt: skip
    seen = run.listen(until=lambda messages: sum("tracks" in m["schema"] for m in messages) >= 2)
    assert sum("tracks" in m["schema"] for m in seen) == 2
    before = {pid: cpu_s(pid) for pid, _ in processes(run.mark)}
    began = time.monotonic()
    time.sleep(SPAN_S)
    used = {name: (cpu_s(pid) - before[pid]) / (time.monotonic() - began) for pid, name in processes(run.mark)}
    run.process.send_signal(signal.SIGINT)
    outcome = run.end()
    assert (outcome.code, outcome.left) == (0, []), outcome.err
    assert len(used) >= 5
    assert max(used.values()) < SPINNING, used
