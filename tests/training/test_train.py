"""Training goes on exactly where it stopped, and refuses in one line what it cannot use."""

import csv
import json
import os
import signal

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training import train as trainer
from training.distributed import Group
from training.feed import feed, split_samples, step_batch
from training.log import Log
from training.recipe import Recipe, RecipeError
from training.run import Average, Run
from training.schedule import learning_rate, with_steps
from training.train import train
from training.weights import WeightsError, load_network

ALONE = Group(torch.device("cpu"))

TINY = {
    "name": "tiny",
    "seed": 3,
    "network": {"stages": 2, "channels": 16, "bottleneck": 2},
    "data": [{"set": "dots"}],
    "steps": 7,
    "batch": 2,
    "sizes": [16, 24],
    "target_share": 0.5,
    "augment": {"gain": 1.2, "bias": 0.1, "noise": 4},
    "rate": 0.01,
    "warm_up": 2,
    "clip": 1.0,
    "pixel_weight": 1,
    "fidelity_every": 3,
    "deep_supervision": 0.5,
    "ema": 0.9,
    "evaluate_every": 3,
}


@pytest.fixture
def recipe():
    return Recipe.model_validate(TINY)


def stop_at(monkeypatch, *steps):
    """Send this process a SIGTERM, as a scheduler would, in the middle of these steps."""
    advance = Run.advance

    def stopping(self, frames, masks):
        if self.step in steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(self, frames, masks)

    monkeypatch.setattr(Run, "advance", stopping)


def states(run):
    saved = torch.load(run.folder / "last.pt", weights_only=True)
    return [*saved["network"].values(), *saved["average"].values(), *tensors(saved["optimizer"])]


def tensors(found):
    """All tensors of dictionaries and lists within one another."""
    if isinstance(found, torch.Tensor):
        return [found]
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, (list, tuple)) else ()
    return [one for part in parts for one in tensors(part)]


@pytest.mark.parametrize("optimizer", ["adam", "soap"])
def test_stopped_and_resumed_twice_is_not_stopped_at_all(optimizer, tiny_set, tmp_path, monkeypatch):
    """SIGTERM saves; going on gives the weights, EMA, optimizer and log of a run in one go, bit for bit."""
    monkeypatch.setattr("training.soap.REFRESH", 3)
    recipe = Recipe.model_validate({**TINY, "optimizer": optimizer})
    whole = train(recipe, tiny_set.parent, tmp_path / "whole", None)
    assert whole.step == 7
    stop_at(monkeypatch, 1, 4)
    reached = [train(recipe, tiny_set.parent, tmp_path / "parts", None).step for _ in range(3)]
    assert reached == [2, 5, 7]
    parts = Run(recipe, tmp_path / "parts", ALONE)
    assert len(states(whole)) > 100
    for one, other in zip(states(whole), states(parts), strict=True):
        assert torch.equal(one, other)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    rows = [list(csv.DictReader((tmp_path / name / "log.csv").open())) for name in ("whole", "parts")]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]] == ["3", "6", "7"]
    for key in ("loss", "rate", "iou"):
        assert [row[key] for row in rows[0]] == [row[key] for row in rows[1]]

    best, metadata = load_network(tmp_path / "whole" / "best.safetensors")
    assert best.config.stages == 2
    assert json.loads(metadata["recipe"])["name"] == "tiny"
    assert json.loads(metadata["held_out"])["iou"] == pytest.approx(max(float(row["iou"]) for row in rows[0]))
    last, metadata = load_network(tmp_path / "whole" / "last.safetensors")
    assert metadata["step"] == "7"
    average = torch.load(tmp_path / "whole" / "last.pt", weights_only=True)["average"]
    assert all(torch.equal(value, average[name]) for name, value in last.state_dict().items())


def test_a_log_written_after_the_last_checkpoint_is_forgotten(recipe, tiny_set, tmp_path):
    """A run that was killed between its log and its checkpoint does not log a step twice."""
    run = train(recipe, tiny_set.parent, tmp_path / "r", None)
    log = tmp_path / "r" / "log.csv"
    before = log.read_text()
    log.write_text(before + before.splitlines()[-1].replace("7,", "9,", 1) + "\n")
    Log(run.folder, run.step)
    assert log.read_text() == before


def test_no_time_is_no_step(recipe, tiny_set, tmp_path):
    """A budget that is over at once saves what there is."""
    assert train(recipe, tiny_set.parent, tmp_path / "r", 0).step == 0
    assert (tmp_path / "r" / "last.pt").is_file()


def test_a_longer_network_begins_with_the_stages_of_a_shorter_one(recipe, tiny_set, tmp_path):
    """A run or its weights start the first stages of a deeper network; the others start fresh."""
    short = train(recipe, tiny_set.parent, tmp_path / "short", None)
    network = recipe.network.model_copy(update={"stages": 3})
    longer = recipe.model_copy(update={"network": network})
    best = short.folder / "best.safetensors"
    for start, its in [(short.folder, short.network), (best, load_network(best)[0])]:
        run = Run(longer, tmp_path / f"longer {start.name}", ALONE, start)
        for mine, theirs in zip(run.network.stages, its.stages, strict=False):
            for one, other in zip(mine.state_dict().values(), theirs.state_dict().values(), strict=True):
                assert torch.equal(one, other)


START = [
    ("more stages than the recipe has", {"stages": 1}, "weights of 2 stages; the recipe has 1"),
    ("other widths", {"bottleneck": 6}, "other widths or depths"),
    ("F and M that do nothing", {"rebuild": False}, "weights of network.rebuild true; the recipe has false"),
]


@pytest.mark.parametrize(("why", "network", "said"), START, ids=[c[0] for c in START])
def test_weights_that_cannot_start_a_run_are_named(why, network, said, recipe, tiny_set, tmp_path):
    """What cannot be begun with is one line that names it."""
    short = train(recipe, tiny_set.parent, tmp_path / "short", 0)
    other = recipe.model_copy(update={"network": recipe.network.model_copy(update=network)})
    with pytest.raises(WeightsError, match=f"short: .*{said}"):
        Run(other, tmp_path / "other", ALONE, short.folder)


def test_what_a_run_began_with_is_noted_and_not_read_again(recipe, tiny_set, tmp_path):
    """A run that goes on needs its start no more."""
    short = train(recipe, tiny_set.parent, tmp_path / "short", 0)
    train(recipe, tiny_set.parent, tmp_path / "r", 0, short.folder)
    (short.folder / "last.pt").unlink()
    for start in (short.folder, None):
        train(recipe, tiny_set.parent, tmp_path / "r", 0, start)
    calls = json.loads((tmp_path / "r" / "versions.json").read_text())
    assert [call["start"] for call in calls] == [str(short.folder)] * 3
    with pytest.raises(RecipeError, match=r"short/last.pt: no checkpoint there$"):
        Run(recipe, tmp_path / "other", ALONE, short.folder)


UNREAD = [
    ("no permission", PermissionError(13, "Permission denied"), "last.pt: Permission denied$"),
    ("no room on the GPU", torch.cuda.OutOfMemoryError("CUDA out of memory"), "last.pt: the GPU has no room"),
]


@pytest.mark.parametrize(("why", "error", "said"), UNREAD, ids=[c[0] for c in UNREAD])
def test_a_checkpoint_that_is_good_is_not_said_to_be_none(why, error, said, recipe, tiny_set, tmp_path, monkeypatch):
    """Nobody is told to remove it."""
    train(recipe, tiny_set.parent, tmp_path / "r", 0)

    def failing(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(RecipeError, match=said) as caught:
        Run(recipe, tmp_path / "r", ALONE)
    assert "remove" not in str(caught.value)


@pytest.mark.parametrize(("bad", "seen"), [("loss", 4), ("network", 6)])
def test_a_loss_that_is_not_finite_stops_the_run(bad, seen, tiny_set, tmp_path, monkeypatch, capsys):
    """At the next report, or before anything would be saved, in one line; what was saved before stays."""
    monkeypatch.setattr(trainer, "REPORT_EVERY", 4 if bad == "loss" else 50)
    advance = Run.advance

    def spoilt(self, frames, masks):
        loss = advance(self, frames, masks)
        if self.step == 4 and bad == "loss":
            self.losses += float("nan")
        elif self.step == 6:
            next(self.network.parameters()).data.fill_(float("nan"))
        return loss

    monkeypatch.setattr(Run, "advance", spoilt)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.raises(SystemExit) as stopped:
        trainer.main(tmp_path / "recipe.yaml", tiny_set.parent, tmp_path / "run")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"error: recipe 'tiny': rate: at step {seen} the {bad} is not finite" in line
    assert torch.load(tmp_path / "run" / "last.pt", weights_only=True)["step"] == 3
    assert load_network(tmp_path / "run" / "best.safetensors")[1]["step"] == "3"
    assert [row["step"] for row in csv.DictReader((tmp_path / "run" / "log.csv").open())] == ["3"]


def test_soap_cannot_begin_with_what_is_not_finite(tiny_set, tmp_path):
    """Its first step looks for a basis of the gradients; what has none is one line like any other."""
    recipe = Recipe.model_validate({**TINY, "optimizer": "soap", "pixel_weight": 1e39})
    with pytest.raises(RecipeError, match=r"recipe 'tiny': rate: at step 0 the gradient is not finite"):
        train(recipe, tiny_set.parent, tmp_path / "r")


def test_another_recipe_does_not_go_on(recipe, tiny_set, tmp_path):
    """A folder belongs to its recipe."""
    train(recipe, tiny_set.parent, tmp_path / "r", 0)
    with pytest.raises(RecipeError, match=r"another recipe, which differs in seed, rate; choose another --run"):
        Run(recipe.model_copy(update={"rate": 0.5, "seed": 77}), tmp_path / "r", ALONE)


def test_a_run_that_is_there_says_where_it_stands(recipe, tiny_set, tmp_path, capsys):
    """So that nobody waits for a run that is done, or believes that --start counts once more."""
    train(recipe, tiny_set.parent, tmp_path / "r")
    assert "at step" not in capsys.readouterr().err
    train(recipe, tiny_set.parent, tmp_path / "r", start=tmp_path / "r")
    there, unused = capsys.readouterr().err.splitlines()
    assert there == f"{tmp_path / 'r'}: done at step {recipe.steps} of {recipe.steps}"
    assert unused == f"--start {tmp_path / 'r'}: not used, for the run there began with random weights"


def test_a_run_from_before_a_key_was_known_goes_on(recipe, tiny_set, tmp_path):
    """A key that a recipe did not say is as good as its default."""
    plain = recipe.model_copy(update={"deep_supervision": 0.0})
    train(plain, tiny_set.parent, tmp_path / "r", 0)
    state = torch.load(tmp_path / "r" / "last.pt", weights_only=True)
    state["recipe"] = json.dumps({k: v for k, v in json.loads(state["recipe"]).items() if k != "deep_supervision"})
    torch.save(state, tmp_path / "r" / "last.pt")
    assert Run(plain, tmp_path / "r", ALONE).step == 0


def test_the_held_out_tenth_is_never_trained_on(recipe, tiny_set):
    """No frame is on both sides, and a repeated set repeats its training frames alone."""
    twice = Recipe.model_validate({**TINY, "data": [{"set": "dots", "repeat": 2}]})
    samples, held_out = split_samples(twice, tiny_set.parent)
    assert held_out
    assert not {s.name for s in samples} & {s.name for s in held_out}
    assert len(samples) == 2 * (20 - len(held_out))
    aside = Recipe.model_validate({**TINY, "data": [{"set": "dots", "set_aside": 3}]})
    samples_aside, _ = split_samples(aside, tiny_set.parent)
    assert len(samples_aside) < len(samples) // 2


RATES = [
    ("the first step of a warm-up", {"warm_up": 10}, 0, 0.1),
    ("its last", {"warm_up": 10}, 9, 1.0),
    ("poly 0.9, half way", {"schedule": "poly"}, 50, 0.5**0.9),
    ("cosine, half way", {"schedule": "cosine"}, 50, 0.5),
    ("cosine, the last step", {"schedule": "cosine"}, 99, 0.5 * (1 + np.cos(np.pi * 0.99))),
]


@pytest.mark.parametrize(("why", "said", "step", "share"), RATES, ids=[c[0] for c in RATES])
def test_learning_rate(why, said, step, share):
    """The rate of a step, as a share of the recipe's."""
    recipe = Recipe.model_validate({**TINY, "steps": 100, "warm_up": 0, **said})
    assert learning_rate(recipe, step) == pytest.approx(share * recipe.rate)


def test_the_average_follows(make_network):
    """The first steps' average is short, so that it is not of the beginning for ever."""
    network, begun = (make_network(seed, stages=1, channels=16, bottleneck=2) for seed in (1, 2))
    start = {name: value.clone() for name, value in begun.state_dict().items()}
    average = Average(begun, 0.999)
    average.update(network, 0)
    for name, value in average.network.state_dict().items():
        if value.dtype.is_floating_point:
            torch.testing.assert_close(value, 0.1 * start[name] + 0.9 * network.state_dict()[name])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_depends_on_its_step_alone(workers, recipe, tiny_set):
    """Made at once or ahead by other processes, from the first step or a later one, a step's batch is the same."""
    samples, _ = split_samples(recipe, tiny_set.parent)
    got = list(feed(samples, recipe, 4, ALONE, workers))
    assert len(got) == 3
    for step, (frames, masks) in enumerate(got, 4):
        want = step_batch(samples, recipe, step)
        np.testing.assert_array_equal(frames, want[0])
        np.testing.assert_array_equal(masks, want[1])


def test_epochs_are_as_many_crops_as_there_are_frames(recipe, tiny_set, tmp_path):
    """Three epochs of n frames in batches of 2 are 3 n / 2 steps, rounded up; the run goes on with them."""
    epochs = Recipe.model_validate({**TINY, "steps": 0, "epochs": 3})
    assert with_steps(epochs, 17).steps == 26
    assert with_steps(recipe, 17).steps == 7
    with pytest.raises(RecipeError, match="warm_up: 26 of 26 steps; fewer are expected"):
        with_steps(epochs.model_copy(update={"warm_up": 26}), 17)
    samples, _ = split_samples(epochs, tiny_set.parent)
    for _ in range(2):
        assert train(epochs, tiny_set.parent, tmp_path / "r", 0).recipe.steps == -(-3 * len(samples) // 2)


def test_nothing_held_out(tiny_set, tmp_path):
    """With nothing held out every frame is trained on, and the best weights are the last average."""
    recipe = Recipe.model_validate({**TINY, "held_out": 0})
    samples, held_out = split_samples(recipe, tiny_set.parent)
    assert (len(samples), held_out) == (20, [])
    run = train(recipe, tiny_set.parent, tmp_path / "r")
    best, metadata = load_network(tmp_path / "r" / "best.safetensors")
    assert metadata["step"] == "7"
    assert next(csv.reader((tmp_path / "r" / "log.csv").open())) == ["step", "loss", "rate"]
    for one, other in zip(best.state_dict().values(), run.average.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_run_says_what_it_ran_with(recipe, tiny_set, tmp_path, monkeypatch):
    """The folder holds the recipe with its seed, the versions of every call, and curves for TensorBoard."""
    monkeypatch.setattr(trainer, "REPORT_EVERY", 2)
    for minutes in (0, None):
        train(recipe, tiny_set.parent, tmp_path, minutes)
    assert json.loads((tmp_path / "recipe.json").read_text())["seed"] == 3
    calls = json.loads((tmp_path / "versions.json").read_text())
    assert [call["from_step"] for call in calls] == [0, 0]
    assert {"python", "torch", "numpy", "commit", "device", "processes", "started"} <= set(calls[0])
    curves = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in curves.Scalars("train/loss")] == [2, 4, 6]
    assert [event.step for event in curves.Scalars("held_out/iou")] == [3, 6, 7]
    assert 0 <= curves.Scalars("train/waited")[0].value <= 1
    assert curves.Scalars("train/images_per_s")[0].value > 0


def test_training_learns(tiny_set, tmp_path):
    """Sixty steps on bright dots bring the loss down by a half."""
    recipe = Recipe.model_validate({**TINY, "steps": 60, "network": {"stages": 1, "channels": 16, "bottleneck": 2}})
    samples, _ = split_samples(recipe, tiny_set.parent)
    run = Run(recipe, tmp_path / "r", ALONE)
    losses = [run.advance(*batch).item() for batch in feed(samples, recipe, 0, ALONE, workers=0)]
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


def test_bfloat16_rounds_a_little_on_a_cpu_too(recipe, tiny_set, tmp_path):
    """The wide convolutions of M are rounded, so the loss is another, but hardly; weights stay float32 and resume."""
    losses, runs = [], []
    for precision in ("float32", "bfloat16"):
        samples, _ = split_samples(recipe, tiny_set.parent)
        run = Run(recipe.model_copy(update={"precision": precision}), tmp_path / precision, ALONE)
        losses.append([run.advance(*batch).item() for batch in feed(samples, recipe, 0, ALONE, workers=0)])
        runs.append(run)
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.02)
    assert all(value.dtype == torch.float32 for value in runs[1].network.parameters())
    assert not runs[1].scaler.is_enabled()


def spoil_checkpoint(folder):
    (folder / "run").mkdir()
    (folder / "run" / "last.pt").write_bytes(b"not a checkpoint")


def take_the_folders_name(folder):
    (folder / "run").write_text("")


BAD = [
    ("an unknown set", {"data": [{"set": "nope"}]}, None, "nope/train.txt: no such file"),
    ("an unknown split", {"data": [{"set": "dots", "split": "val"}]}, None, "val.txt: no such file"),
    ("nothing left", {"data": [{"set": "dots", "set_aside": 1}]}, None, "0 frames to train on and 0 held out"),
    ("a value out of range", {"ema": 1.5}, None, "recipe.yaml: ema: "),
    ("a checkpoint that is none", {}, spoil_checkpoint, "last.pt: not a checkpoint of this program"),
    ("a file where the run should be", {}, take_the_folders_name, "run: File exists"),
]


@pytest.mark.parametrize(("why", "said", "spoil", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_input_is_one_line(why, said, spoil, error, tiny_set, tmp_path, capsys):
    """Whatever cannot be used is one line on stderr, with its file, and exit code 2."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**TINY, **said}))
    if spoil:
        spoil(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        trainer.main(tmp_path / "recipe.yaml", tiny_set.parent, tmp_path / "run")
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert error in lines[0]
