"""A recipe is read, or refused in one line that names its file and the key."""

from pathlib import Path

import pytest

from training.recipe import RecipeError, read_recipe

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "training").rglob("*.yaml"))
LEAST = "name: least\ndata: [{set: dots}]\nsteps: 10\n"


@pytest.mark.parametrize("path", RECIPES, ids=[f"{path.parent.name}-{path.stem}" for path in RECIPES])
def test_the_shipped_recipes_are_valid(path):
    """Every recipe in configs/training can be read."""
    recipe = read_recipe(path)
    assert recipe.steps > 0 or recipe.epochs > 0


def test_defaults_are_the_authors(tmp_path):
    """A recipe that says little is the authors': Adam 1e-4, poly, batch 8, 256 x 256, no variation."""
    path = tmp_path / "r.yaml"
    path.write_text(LEAST)
    recipe = read_recipe(path)
    assert (recipe.rate, recipe.schedule, recipe.batch, recipe.sizes) == (1e-4, "poly", 8, [256])
    assert (recipe.fidelity_weight, recipe.pixel_weight, recipe.augment.gain) == (0.1, 0.0, 1.0)
    assert recipe.network.stages == 6


BAD = [
    ("not YAML", "name: [", r"not YAML"),
    ("a key twice", LEAST + "steps: 20\n", r"not YAML \('steps' is given twice"),
    ("a list", "- 1\n", r"\(top\): a map of keys is expected, such as 'name: mine'"),
    ("nothing", "", r"\(top\): a map of keys is expected"),
    ("no name", "data: [{set: dots}]\nsteps: 10\n", r"name: this key is needed"),
    ("a word for a map", LEAST + "network: small\n", r"network: a map of keys is expected"),
    ("bytes that are no text", None, r"not YAML"),
    ("an unknown key", LEAST + "stepps: 3\n", r"stepps: no such key; did you mean 'steps'\?"),
    ("an unknown key below", LEAST + "network: {stage: 3}\n", r"network.stage: no such key; did you mean 'stages'"),
    ("one of a data set", "data: [{set: dots, repeats: 2}]\n", r"data.0.repeats: no such key; did you mean 'repeat'"),
    ("one like no other", LEAST + "augment: {xyz: 3}\n", r"augment.xyz: no such key; there are gain, bias, noise,"),
    ("a missing key", "name: x\ndata: [{set: dots}]\n", r"\(top\): give either steps or epochs"),
    ("two lengths", LEAST + "epochs: 4\n", r"\(top\): give either steps or epochs"),
    ("no data", "name: x\ndata: []\nsteps: 1\n", r"data: List should have at least 1"),
    ("a value out of range", LEAST + "target_share: 1.5\n", r"target_share: Input should be less than or equal to 1"),
    ("a warm-up without end", LEAST + "warm_up: 10\n", r"\(top\): warm_up: 10 of 10 steps; fewer are expected"),
    (
        "a D that is not there",
        LEAST + "network: {rebuild: false}\n",
        r"fidelity_weight: without network.rebuild",
    ),
    ("no steps", "name: x\ndata: [{set: dots}]\nsteps: 0\n", r"\(top\): give either steps or epochs"),
    ("fewer than no steps", "name: x\ndata: [{set: dots}]\nsteps: -1\n", r"steps: Input should be greater"),
    ("all held out", LEAST + "held_out: 1\n", r"held_out"),
    ("an unknown precision", LEAST + "precision: half\n", r"precision: Input should be 'float32'"),
    ("a base that is not there", LEAST + "base: none.yaml\n", r"base: 'none.yaml' is no file beside it"),
    ("a base that is no name", LEAST + "base: [1]\n", r"base: \[1\] is no file"),
    ("a base that is itself", LEAST + "base: r.yaml\n", r"base: r.yaml leads back to itself"),
    ("a seed below 0", LEAST + "seed: -1\n", r"seed: Input should be greater"),
    ("a seed of more than 63 bits", LEAST + f"seed: {1 << 63}\n", r"seed: Input should be less"),
    ("a scene that is repeated", LEAST.replace("dots", "scene, repeat: 3"), r"data.0: repeat: a scene is drawn"),
    ("frames of an image set", LEAST.replace("dots", "dots, frames: 3"), r"data.0: frames: of the set scene alone"),
    ("a word for a number", LEAST + "batch: many\n", r"batch: Input should be a valid integer"),
    ("an unknown schedule", LEAST + "schedule: steps\n", r"schedule: Input should be 'poly' or 'cosine'"),
    ("a crop of no size", LEAST + "sizes: [64, 0]\n", r"sizes.1: Input should be greater"),
]


@pytest.mark.parametrize(("why", "text", "said"), BAD, ids=[c[0] for c in BAD])
def test_a_bad_recipe_is_refused(why, text, said, tmp_path):
    """The error is one line with the file and the key."""
    path = tmp_path / "r.yaml"
    path.write_bytes(b"\xff\xfe\x81" if text is None else text.encode())
    with pytest.raises(RecipeError, match=said) as caught:
        read_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_recipe_that_is_not_there(name, tmp_path):
    """Neither is a missing file or a folder."""
    with pytest.raises(RecipeError, match="a recipe is a YAML file"):
        read_recipe(tmp_path / name)


def test_a_recipe_says_what_differs_from_its_base(tmp_path):
    """Keys replace the base's, those of mappings one by one and lists as a whole; a base may have a base."""
    (tmp_path / "below").mkdir()
    (tmp_path / "base.yaml").write_text(LEAST + "network: {stages: 3, bottleneck: 8}\nsizes: [64, 128]\n")
    (tmp_path / "below" / "middle.yaml").write_text("base: ../base.yaml\nnetwork: {stages: 4}\n")
    path = tmp_path / "below" / "r.yaml"
    path.write_text("base: middle.yaml\nname: mine\nsizes: [32]\n")
    recipe = read_recipe(path)
    assert (recipe.name, recipe.steps, recipe.sizes) == ("mine", 10, [32])
    assert (recipe.network.stages, recipe.network.bottleneck) == (4, 8)


def test_what_leads_back_is_found_further_up(tmp_path):
    """Two recipes that are each other's base are refused."""
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.yaml").write_text(LEAST + f"base: {other}.yaml\n")
    with pytest.raises(RecipeError, match=r"b.yaml: base: a.yaml leads back to itself"):
        read_recipe(tmp_path / "a.yaml")


def test_a_mistake_in_a_base_is_found(tmp_path):
    """The file that is not YAML is named, not the one that asks for it."""
    (tmp_path / "base.yaml").write_text("name: [")
    (tmp_path / "r.yaml").write_text("base: base.yaml\n")
    with pytest.raises(RecipeError, match=r"base.yaml: not YAML"):
        read_recipe(tmp_path / "r.yaml")
