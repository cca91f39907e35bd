"""What a run writes about itself: a CSV row an evaluation, TensorBoard's curves, the versions it ran with."""

from __future__ import annotations

import csv
import json
import platform
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from training.distributed import Group

REPOSITORY = Path(__file__).parents[1]


def write_whole(path: Path, text: str) -> None:
    """Write a file; a kill at any moment leaves the old one or the new one."""
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)


@dataclass
class Meter:
    """How fast a run goes, since it was last asked.

    Attributes:
        images: trained on, by all processes.
        waited: seconds that the loop waited for data; the device may still have been busy meanwhile.
    """

    images: int = 0
    waited: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def read(self) -> dict[str, float]:
        """Return images/s and the share of the time that was waited, and begin anew."""
        now = time.monotonic()
        span = max(now - self._since, 1e-9)
        figures = {"images_per_s": self.images / span, "waited": self.waited / span}
        self.images, self.waited, self._since = 0, 0.0, now
        return figures

    def skip(self) -> None:
        """Begin anew, so that an evaluation counts neither as training nor as waiting."""
        self.images, self.waited, self._since = 0, 0.0, time.monotonic()


class Log:
    """A run's ``log.csv`` and its curves in ``tensorboard/``."""

    def __init__(self, folder: Path, step: int) -> None:
        self.path = folder / "log.csv"
        self._forget_after(step)
        self.curves = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def _forget_after(self, step: int) -> None:
        """Drop the rows that a killed run wrote after its last checkpoint: they will come again."""
        if self.path.exists():
            rows = self.path.read_text().splitlines(keepends=True)
            kept = [row for row in rows[1:] if int(row.split(",")[0]) <= step]
            write_whole(self.path, "".join([*rows[:1], *kept]))

    def evaluation(self, row: Mapping[str, float]) -> None:
        """Add a row, which begins with its step, to the CSV, and its figures to the curves."""
        new = not self.path.exists()
        # A log that was begun by an older version keeps its columns.
        columns = list(row) if new else self.path.read_text().split("\n", 1)[0].split(",")
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow(row)
        self.curve("held_out", {key: value for key, value in row.items() if key != "step"}, int(row["step"]))

    def curve(self, group: str, figures: Mapping[str, float], step: int) -> None:
        """Add figures to TensorBoard's curves alone."""
        for key, value in figures.items():
            self.curves.add_scalar(f"{group}/{key}", value, step)

    def close(self) -> None:
        """Write out what is still in memory."""
        self.curves.close()


def versions(group: Group) -> dict[str, Any]:
    """Return what this process runs with: versions, the checkout's commit where there is one, and the device."""
    cuda = group.device.type == "cuda"
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "commit": _commit(),
        "device": torch.cuda.get_device_name(group.device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "processes": group.world,
    }


def _commit() -> str | None:
    """Return the commit of the checkout that this file lies in, ``+`` behind it where tracked files differ."""
    if not (REPOSITORY / ".git").exists():
        return None
    said = []
    for question in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(["git", "-C", str(REPOSITORY), *question], capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        said.append(done.stdout.strip())
    return said[0] + ("+" if said[1] else "")


def note_versions(folder: Path, step: int, group: Group, start: str | None = None) -> None:
    """Add this call, and what the run began with, to ``versions.json``: a run may go on with other versions."""
    path = folder / "versions.json"
    calls = json.loads(path.read_text()) if path.exists() else []
    now = datetime.now(UTC).isoformat(timespec="seconds")
    calls.append({"from_step": step, "started": now, "start": start, **versions(group)})
    write_whole(path, json.dumps(calls, indent=2) + "\n")
