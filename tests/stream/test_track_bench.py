"""The trackers that ours is measured against do what they are there for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stream.synthetic import SCENARIOS
from stream.track_bench import TRACKERS, compare

PLAIN = replace(SCENARIOS[0], frames=90)
NEEDED = {"stonesoup": "stonesoup", "stonesoup-jpda": "stonesoup"}


@pytest.mark.parametrize("name", [name for name in TRACKERS if name != "ours"])
def test_a_reference_follows_plain_targets(name: str) -> None:
    """A reference that is set up wrongly would make any tracker look good."""
    pytest.importorskip(NEEDED.get(name, "trackers"), reason="not installed (the compare extra)")
    (row,) = compare([name], [PLAIN], range(100, 101))
    assert row["tracker"] == name
    assert row["mota"] > 0.6
    assert row["idf1"] > 0.6
    assert row["ms_per_frame"] > 0


def test_ours_is_no_worse_than_stone_soup_with_every_difficulty_at_once() -> None:
    pytest.importorskip("stonesoup", reason="not installed (the compare extra)")
    (scenario,) = (replace(scenario, frames=90) for scenario in SCENARIOS if scenario.name == "all of these")
    ours, theirs = compare(["ours", "stonesoup"], [scenario], range(2))
    assert ours["mota"] >= theirs["mota"]
    assert ours["idf1"] >= theirs["idf1"]
    assert ours["ms_per_frame"] < theirs["ms_per_frame"]
