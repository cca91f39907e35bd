"""A bench's plot: latency over time, and its distribution."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from stream.bench_listener import COLUMNS, STAGES_HEARD, Heard

LEVELS = (50, 90, 99, 99.9)


def draw_latency(path: Path, heard: Heard, names: list[str], title: str) -> None:
    """Draw every frame's latency when it was due, and how many per cent of each stream's frames were slower."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7), layout="constrained")
    over_time, slower = figure.subplots(2, 1)
    due = heard.rows[:, COLUMNS.index("due_ns")]
    late = heard.rows[:, COLUMNS.index(STAGES_HEARD[-1])] / 1e6
    for index, name in enumerate(names):
        mine = heard.rows[:, 0] == index
        if not mine.any():
            continue
        over_time.plot((due[mine] - due.min()) / 1e9, late[mine], ".", markersize=3, label=name)
        order = np.sort(late[mine])
        slower.plot(order, 100 * (1 - np.arange(len(order)) / len(order)), drawstyle="steps-post", label=name)
    over_time.set(title=title, xlabel="when the frame was due, s", ylabel="due to received, ms", ylim=(0, None))
    if len(names) > 1:
        over_time.legend(loc="upper right", ncols=4, fontsize="small")
    slower.set(xlabel="due to received, ms", ylabel="frames that were slower, %", yscale="log", xscale="log")
    for level in LEVELS:
        slower.axhline(100 - level, color="0.7", linewidth=0.7, zorder=0)
        slower.annotate(f"p{level:g}", (1, 100 - level), xycoords=("axes fraction", "data"), va="bottom", ha="right")
    figure.savefig(path, dpi=110)
