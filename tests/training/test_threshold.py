"""Thresholds are chosen on held-out frames, and a higher one finds no more pixels."""

from __future__ import annotations

from itertools import pairwise

import pytest

from training.data import read_split
from training.recipe import Recipe
from training.threshold import THRESHOLDS, main, try_thresholds
from training.weights import save_network


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


def run_of(network, folder, held_out):
    recipe = Recipe.model_validate({"name": "r", "data": [{"set": "dots"}], "steps": 1, "held_out": held_out})
    save_network(network, folder / "best.safetensors", recipe=recipe.model_dump_json())


def test_the_first_stages_of_a_run(make_network, tiny_set, tmp_path, capsys):
    """A network that is exported cut has a threshold of its own; more stages than it has are refused."""
    run_of(make_network(stages=2), tmp_path, 2)
    main(tmp_path, tiny_set.parent)
    whole = capsys.readouterr().out
    main(tmp_path, tiny_set.parent, stages=1)
    assert capsys.readouterr().out != whole
    with pytest.raises(SystemExit):
        main(tmp_path, tiny_set.parent, stages=3)
    assert "--stages 3" in capsys.readouterr().err


def test_a_run_that_held_nothing_out(make_network, tiny_set, tmp_path, capsys):
    """There is nothing to choose on."""
    run_of(make_network(stages=1), tmp_path, 0)
    with pytest.raises(SystemExit):
        main(tmp_path, tiny_set.parent)
    assert capsys.readouterr().err == f"error: {tmp_path}: held_out: 0 leaves nothing to try thresholds on\n"
