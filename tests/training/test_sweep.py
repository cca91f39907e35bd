"""A folder of recipes becomes one table, whatever stops it in between."""

import csv
import json
import os
import signal

import pytest
import yaml

from training import sweep as sweeper
from training.cost import cost_of
from training.model import NetworkConfig
from training.recipe import RecipeError
from training.run import Run
from training.sweep import main, parse_seeds, sweep

BASE = {"name": "tiny", "data": [{"set": "dots"}], "steps": 2, "batch": 2, "sizes": [16], "evaluate_every": 2}
SIX = [
    {"network": {"stages": 1, "channels": 16, "bottleneck": 2}},
    {"network": {"stages": 2, "channels": 16, "bottleneck": 2}},
    {"network": {"stages": 2, "channels": 16, "bottleneck": 2, "carry_noise": False}},
    {"network": {"stages": 1, "channels": 16, "bottleneck": 4}},
    {"network": {"stages": 1, "channels": 20, "bottleneck": 2}},
    {"network": {"stages": 1, "channels": 16, "bottleneck": 2}, "rate": 0.01, "steps": 3},
]


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "_base.yaml").write_text(yaml.safe_dump(BASE))
    for index, said in enumerate(SIX):
        (folder / f"r{index}.yaml").write_text(yaml.safe_dump({"base": "_base.yaml", **said}))
    return folder


def rows_of(out):
    return list(csv.DictReader((out / "table.csv").open()))


def test_six_recipes_become_a_table(recipes, tiny_set, tmp_path, monkeypatch, capsys):
    """A sweep that is stopped goes on, runs nothing twice, and ends with a row a recipe; a second seed adds spread."""
    out = tmp_path / "out"
    asked = []
    train = sweeper.train

    def training(recipe, data, folder, minutes, workers):
        asked.append(recipe.name)
        return train(recipe, data, folder, 0 if len(asked) == 3 else None, workers=workers)

    monkeypatch.setattr(sweeper, "train", training)
    assert not sweep(recipes, tiny_set.parent, out, [0])
    assert [row["seeds"] for row in rows_of(out)] == ["1", "1", "0", "0", "0", "0"]
    assert sweep(recipes, tiny_set.parent, out, [0])
    assert asked == [f"r{index} seed 0" for index in (0, 1, 2, 2, 3, 4, 5)]
    assert sweep(recipes, tiny_set.parent, out, [0])
    assert len(asked) == 7

    rows = rows_of(out)
    assert [row["recipe"] for row in rows] == [f"r{index}" for index in range(6)]
    assert all(float(row["iou"]) >= 0 and row["iou_spread"] == "" for row in rows)
    assert rows[1]["parameters"] == rows[2]["parameters"] != rows[0]["parameters"]

    (recipes / "r5.yaml").rename(recipes / "_r5.yaml")
    for index in range(1, 5):
        (recipes / f"r{index}.yaml").unlink()
    assert sweep(recipes, tiny_set.parent, out, [0, 1])
    assert len(asked) == 8
    assert float(rows_of(out)[0]["iou_spread"]) >= 0
    table = (out / "table.md").read_text().splitlines()
    assert table[0].count("|") == table[1].count("|") == table[2].count("|") == 10
    assert "±" in table[2]
    assert table[2] in capsys.readouterr().out


def test_a_run_of_before_a_key_was_known_is_done(recipes, tiny_set, tmp_path, monkeypatch):
    """A key that a recipe did not say is as good as its default: nothing is run again."""
    assert sweep(recipes, tiny_set.parent, tmp_path / "out", [0])
    path = tmp_path / "out" / "r0" / "seed0" / "done.json"
    done = json.loads(path.read_text())
    del done["recipe"]["optimizer"]
    path.write_text(json.dumps(done))
    monkeypatch.delattr(sweeper, "train")
    assert sweep(recipes, tiny_set.parent, tmp_path / "out", [0])


def test_a_signal_in_the_last_step_of_a_recipe_stops_the_sweep(recipes, tiny_set, tmp_path, monkeypatch):
    """The recipe is done, and the next is not begun."""
    evaluate = Run.evaluate

    def stopping(self, held_out):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, held_out)

    monkeypatch.setattr(Run, "evaluate", stopping)
    assert not sweep(recipes, tiny_set.parent, tmp_path / "out", [0])
    assert [row["seeds"] for row in rows_of(tmp_path / "out")] == ["1", "0", "0", "0", "0", "0"]


COSTS = [
    ("the published K=6", {}, 215_916, 184_581),
    ("K=1, whose only N and D go", {"stages": 1}, 35_986, 4_651),
    ("K=3 without F and M", {"stages": 3, "rebuild": False}, 107_958, 3 * 4_651),
    ("the authors' on NUDT-SIRST", {"bottleneck": 16}, 475_188, None),
]


@pytest.mark.parametrize(("why", "widths", "parameters", "at_inference"), COSTS, ids=[c[0] for c in COSTS])
def test_parameters(why, widths, parameters, at_inference):
    """Parameters as published, and those that targets depend on."""
    cost = cost_of(NetworkConfig(**widths))
    assert cost.parameters == parameters
    assert at_inference in (None, cost.at_inference)


def test_multiply_accumulates():
    """One stage by hand: W is 1x1, 3 of 3x3, 3x3 to c, 3x3 to one; H three layers more; attention on one pixel."""
    c, b, pixels = 32, 4, 64 * 64
    chains = [b + layers * 9 * b * b + 9 * b * c + 9 * c for layers in (3, 6)]
    attention = 2 * 2 * (c * c // 16)
    want = sum(chains) * pixels + attention
    assert cost_of(NetworkConfig(stages=1), 64).gmac == pytest.approx(want / 1e9)


BAD_SEEDS = ["", "a", "0,,1", "1,1", "-1"]


@pytest.mark.parametrize("said", BAD_SEEDS)
def test_seeds_that_are_none(said):
    """Seeds are different whole numbers."""
    with pytest.raises(RecipeError, match=r"--seeds: .* such as 0,1,2"):
        parse_seeds(said)


def spoil_nothing(recipes, out):
    for path in recipes.glob("r*.yaml"):
        path.unlink()


def spoil_recipe(recipes, out):
    (recipes / "r3.yaml").write_text("base: _base.yaml\nstepps: 3\n")


def spoil_held_out(recipes, out):
    (recipes / "r3.yaml").write_text("base: _base.yaml\nheld_out: 0\n")


def spoil_done(recipes, out):
    (out / "r0" / "seed0").mkdir(parents=True)
    (out / "r0" / "seed0" / "done.json").write_text('{"recipe": {}, "held_out": {}}')


def spoil_summary(recipes, out):
    (out / "r0" / "seed0").mkdir(parents=True)
    (out / "r0" / "seed0" / "done.json").write_text('{"recipe": ')


BAD = [
    ("a summary cut short", spoil_summary, "done.json: this run was of another recipe"),
    ("a folder without recipes", spoil_nothing, "recipes: no recipe in it"),
    ("a recipe that is wrong, before any is run", spoil_recipe, "r3.yaml: stepps: "),
    ("nothing held out", spoil_held_out, "r3.yaml: held_out: 0 leaves nothing"),
    ("a run of another recipe", spoil_done, "done.json: this run was of another recipe"),
]


@pytest.mark.parametrize(("why", "spoil", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_input_is_one_line(why, spoil, error, recipes, tiny_set, tmp_path, capsys):
    """Whatever cannot be used is one line on stderr, with its file, and exit code 2."""
    spoil(recipes, tmp_path / "out")
    with pytest.raises(SystemExit) as stopped:
        main(recipes, tiny_set.parent, tmp_path / "out")
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert error in lines[0]
