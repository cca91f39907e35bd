"""The bench of detection, as a command."""

import json
import subprocess
import sys


def bench(*arguments):
    command = [sys.executable, "-m", "stream.detect_bench", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_it_times_every_size_with_few_and_many_targets():
    done = bench("--size", "64x48,96x64", "--json", "-")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["results"]
    assert {row["size"] for row in rows} == {"64x48", "96x64"}
    assert all(row["p99_ms"] >= row["median_ms"] > 0 for row in rows)


def test_a_size_that_is_none_is_one_line():
    done = bench("--size", "large")
    assert done.returncode == 2
    assert done.stderr == "error: --size large: WIDTHxHEIGHT is expected, such as 640x512\n"
