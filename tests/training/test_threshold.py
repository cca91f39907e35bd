"""Thresholds are chosen on held-out frames, and a higher one finds no more pixels."""

from __future__ import annotations

from itertools import pairwise

import pytest

from training.data import read_split
from training.threshold import THRESHOLDS, main, try_thresholds


def test_a_higher_threshold_finds_a_part_of_what_a_lower_one_does(make_network, tiny_set):
    """Recall falls, or stays, as the threshold rises."""
    tallies = try_thresholds(make_network(stages=1), read_split(tiny_set, "train")[:3])
    found = [tallies[threshold].true_pixels + tallies[threshold].false_pixels for threshold in THRESHOLDS]
    assert all(lower >= higher for lower, higher in pairwise(found))
    assert len({tally.pixels for tally in tallies.values()}) == 1


def test_a_folder_without_weights_is_named(tmp_path, capsys):
    """Bad input is one line."""
    with pytest.raises(SystemExit):
        main(tmp_path, tmp_path)
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}")
