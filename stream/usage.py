"""CPU and memory of this process and all that it started, out of /proc."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PROC = Path("/proc")


@dataclass
class _Seen:
    name: str
    first_s: float
    first_cpu_s: float
    last_s: float
    last_cpu_s: float
    private_mb: float = 0.0
    shared_mb: float = 0.0


class Usage:
    """What each process uses between the first and the last ``sample``."""

    def __init__(self) -> None:
        self._seen: dict[int, _Seen] = {}

    def sample(self) -> None:
        """Look at every process once."""
        for pid in family(os.getpid()):
            now = time.monotonic()
            try:
                stat = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
                status = (PROC / str(pid) / "status").read_text()
                cpu_s = (int(stat[11]) + int(stat[12])) * TICK_S
                if pid not in self._seen:
                    self._seen[pid] = _Seen(name_of(pid), now, cpu_s, now, cpu_s)
            except (OSError, IndexError):  # it ended while we looked
                continue
            seen = self._seen[pid]
            seen.last_s, seen.last_cpu_s = now, cpu_s
            seen.private_mb = max(seen.private_mb, _kb(status, "RssAnon") / 1024)
            seen.shared_mb = max(seen.shared_mb, _kb(status, "RssShmem") / 1024)

    def figures(self) -> list[dict[str, object]]:
        """Return a row a process, the busiest first.

        ``cpu_percent`` is of one core; ``memory_mb`` the largest memory of its own, ``shared_mb`` what of the
        frame rings it had touched.
        """
        rows = [
            {
                "name": seen.name,
                "cpu_percent": round(100 * (seen.last_cpu_s - seen.first_cpu_s) / (seen.last_s - seen.first_s), 2),
                "memory_mb": round(seen.private_mb, 1),
                "shared_mb": round(seen.shared_mb, 1),
            }
            for seen in self._seen.values()
            if seen.last_s > seen.first_s
        ]
        return sorted(rows, key=lambda row: -float(str(row["cpu_percent"])))


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    family, ahead = [], [pid]
    while ahead:
        family.append(ahead.pop())
        for task in (PROC / str(family[-1]) / "task").glob("*/children"):
            try:
                ahead += map(int, task.read_text().split())
            except OSError:
                continue
    return family


def own_shm(pids: Iterable[int]) -> set[str]:
    """Return the names in /dev/shm that are this program's: other programs' come and go.

    Its own are called after it or after one of these processes, or one of them has them open or mapped.
    """
    numbers = {str(pid) for pid in pids}
    used: set[str] = set()
    for number in numbers:
        try:
            used.update(word for word in (PROC / number / "maps").read_text().split() if word.startswith("/dev/shm/"))
            for link in (PROC / number / "fd").iterdir():
                used.add(os.readlink(link))
        except OSError:  # it ended, or closed the file, while we looked
            continue
    return {
        name
        for name in os.listdir("/dev/shm")
        if name.startswith("irstream") or numbers & set(re.split("[._-]", name)) or f"/dev/shm/{name}" in used
    }


def name_of(pid: int) -> str:
    """Return what a process is called."""
    if pid == os.getpid():
        return "supervisor"
    words = (PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    if words.startswith("irstream "):
        return words.removeprefix("irstream ")
    return "resource tracker" if "resource_tracker" in words else (PROC / str(pid) / "comm").read_text().strip()


def _kb(status: str, key: str) -> int:
    value = status.partition(f"\n{key}:")[2].split(maxsplit=1)
    return int(value[0]) if value else 0
