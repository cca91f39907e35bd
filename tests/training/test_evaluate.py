"""The evaluation gives the same figures whatever form a network comes in."""

import csv
import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from training import evaluate as evaluator
from training.export import describe, export
from training.weights import save_network

pytestmark = pytest.mark.timeout(600)  # torch takes seconds of CPU to export, minutes where it is shared
SHARES = {"iou", "niou", "f1", "precision", "recall", "pd", "fa", "pd_centroid", "fa_centroid"}
COUNTS = {"params", "frames", "target_free_frames"}
COMPONENTS = {"false_components_per_frame", "false_components_per_target_free_frame"}
KEYS = SHARES | COUNTS | COMPONENTS | {"model", "data", "split"}


@pytest.fixture(scope="session")
def forms(make_network, tmp_path_factory):
    """One network as a run's folder, as safetensors and as ONNX."""
    run = tmp_path_factory.mktemp("run")
    network = make_network(stages=1, channels=16, bottleneck=2)
    save_network(network, run / "best.safetensors")
    export(network, run / "net.onnx", describe(network, run / "best.safetensors", "net", "dots"))
    return run, run / "best.safetensors", run / "net.onnx"


@pytest.fixture
def run():
    app = typer.Typer()
    app.command()(evaluator.main)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_every_form_has_the_same_figures(forms, tiny_set, run):
    """Run folder, safetensors, and ONNX through either engine; stdout is JSON alone."""
    found = []
    for form in (*[(form,) for form in forms], (forms[2], "--engine", "onnxruntime")):
        done = run("--model", *form, "--data", tiny_set, "--json", "-")
        assert done.exit_code == 0, done.stderr
        found.append(json.loads(done.stdout))
    for figures in found:
        assert figures.keys() == KEYS
        assert (figures["frames"], figures["data"], figures["split"]) == (4, "dots", "test")
        assert figures["params"] == found[0]["params"] > 4_651
        assert figures["iou"] == pytest.approx(found[0]["iou"], abs=0.01)


def test_several_sets_give_a_list(forms, tiny_set, run, tmp_path):
    """A result a set, in their order, and one CSV row a frame."""
    files = ("--json", tmp_path / "r.json", "--csv", tmp_path / "r.csv")
    done = run("--model", forms[1], "--data", tiny_set, "--data", tiny_set, "--split", "train", *files)
    assert done.exit_code == 0
    assert "false_components_per_frame" in done.stdout
    results = json.loads((tmp_path / "r.json").read_text())
    assert len(results) == 2
    assert results[0] == results[1]
    rows = list(csv.DictReader((tmp_path / "r.csv").open()))
    assert [row["frame"] for row in rows[:20]] == [f"f{index:02}" for index in range(20)]
    assert len(rows) == 40
    true, false, missed = (sum(int(row[f"{kind}_pixels"]) for row in rows) for kind in ("true", "false", "missed"))
    assert true / (true + false + missed) == pytest.approx(results[0]["iou"])
    assert sum(int(row["false_components"]) for row in rows) / 40 == results[0]["false_components_per_frame"]


def test_several_models_and_sets_give_every_pair(forms, tiny_set, run, tmp_path):
    """Model by model; printed, it is a matrix."""
    words = ("--model", forms[1], "--model", forms[2], "--data", tiny_set, "--data", tiny_set)
    done = run(*words, "--json", tmp_path / "r.json")
    assert done.exit_code == 0, done.stderr
    results = json.loads((tmp_path / "r.json").read_text())
    assert [result["model"] for result in results] == [forms[0].name] * 2 + ["net"] * 2
    assert done.stdout.count("on dots") == 2
    assert done.stdout.count(" net ") == 8  # a line a figure


def test_models_called_alike_are_told_apart(forms, tiny_set, run):
    """Weights twice, as a run's folder and as its file: each has the name that it was given by."""
    done = run("--model", forms[0], "--model", forms[1], "--data", tiny_set, "--json", "-")
    assert [result["model"] for result in json.loads(done.stdout)] == [str(forms[0]), str(forms[1])]


def test_noise_curves_and_pictures(forms, tiny_set, run, tmp_path):
    """One call measures noise and writes curves, plot, gallery and stages."""
    outputs = {name: tmp_path / f"{name}.png" for name in ("gallery", "noise-plot", "stages")}
    words = [word for name, path in outputs.items() for word in (f"--{name}", path)]
    words += ["--frames", "f21,f23", "--roc", tmp_path / "roc", "--noise", "gaussian:10", "--noise", "salt-pepper:0.1"]
    done = run("--model", forms[1], "--data", tiny_set, *words, "--json", "-")
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures.keys() == KEYS | {"noise", "roc_area"}
    assert [(row["kind"], row["level"]) for row in figures["noise"]] == [("gaussian", 10), ("salt-pepper", 0.1)]
    assert figures["noise"][0].keys() >= SHARES
    assert 0 <= figures["roc_area"] <= 1
    for path in (*outputs.values(), tmp_path / "roc" / "roc.png"):
        assert path.stat().st_size > 5_000
    rows = list(csv.DictReader((tmp_path / "roc" / "roc.csv").open()))
    half = next(row for row in rows if row["threshold"] == "0.5")
    assert float(half["iou"]) == pytest.approx(figures["iou"])
    assert len(list(csv.DictReader((tmp_path / "roc" / "roc_pixels.csv").open()))) == 1201


def test_frames_can_be_measured_at_another_size(forms, tiny_set, run):
    """The same frames, half as large."""
    done = run("--model", forms[1], "--data", tiny_set, "--size", "24x20", "--json", "-")
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["frames"], figures["size"]) == (4, "24x20")
    table = run("--model", forms[1], "--data", tiny_set, "--size", "24x20")
    assert table.exit_code == 0, table.exception
    assert "24x20" in next(line for line in table.stdout.splitlines() if "size" in line)


def test_clips(forms, data, run, tmp_path):
    """Every hundredth frame of two clips: 4 frames each, 8 together; a CSV row a clip."""
    words = ("--clip", "IR_DRONE_023", "--clip", "IR_DRONE_050", "--every", 100, "--csv", tmp_path / "c.csv")
    done = run("--model", forms[1], "--clips", data / "ir-video", *words, "--json", "-")
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    assert (figures["model"], figures["data"], figures["frames"]) == (forms[0].name, "ir-video", 8)
    assert [row["frames"] for row in csv.DictReader((tmp_path / "c.csv").open())] == ["4", "4"]


def test_the_authors_checkpoint_on_video(data, run):
    """Their SIRST-Aug network on 4 of the 251 frames (every tenth of every fifth clip) that the data's README is of."""
    weights = data / "checkpoints" / "l-rpcanet" / "SIRST_Aug_mIoU_74.56.pkl"
    clips = ("--clips", data / "ir-video", "--clip", "IR_DRONE_077", "--every", 100)
    done = run("--model", weights, *clips, "--json", "-")
    assert done.exit_code == 0, done.stderr
    figures = json.loads(done.stdout)
    keys = ("frames", "found", "other_components_per_frame", "border_components_per_frame")
    assert [figures[key] for key in keys] == [4, 3 / 4, 14 / 4, 6 / 4]


BAD = [
    ("an unknown model", ["--model", "nope"], "nope: no such model"),
    ("a folder that is no run", ["--model", "{}"], "best.safetensors: no such file"),
    ("weights through an engine", ["--model", "{}/w.safetensors", "--engine", "openvino"], "weights run in PyTorch"),
    ("an unknown engine", ["--model", "onnx", "--engine", "quantum"], "quantum: no such engine"),
    ("no data set", ["--model", "onnx", "--data", "{}"], "test.txt: no such file"),
    ("an unknown split", ["--model", "onnx", "--split", "val"], "val.txt: no such file"),
    (
        "a file in no folder",
        ["--model", "onnx", "--json", "/nowhere/r.json"],
        "/nowhere/r.json: its folder does not exist",
    ),
    (
        "a table in no folder",
        ["--model", "onnx", "--csv", "/nowhere/r.csv"],
        "/nowhere/r.csv: its folder does not exist",
    ),
    ("a folder in no folder", ["--model", "onnx", "--roc", "/nowhere/r"], "/nowhere/r: No such file"),
    ("a table that is a folder", ["--model", "onnx", "--csv", "{}"], "a folder; a file to write is expected"),
    ("a picture of no kind", ["--model", "onnx", "--gallery", "{}/g.gallery"], "g.gallery: a name that ends in .png"),
    (
        "two outputs in one file",
        ["--model", "onnx", "--json", "{}/r", "--csv", "{0}/../{0.name}/r"],
        "--json writes that file; another name is expected",
    ),
    (
        "a table in the place of a curve's",
        ["--model", "onnx", "--csv", "{}/roc.csv", "--roc", "{}"],
        "--roc writes that file; another name is expected",
    ),
    ("no such noise", ["--model", "onnx", "--noise", "rain:1"], "--noise rain:1: no such kind"),
    ("a size in words", ["--model", "onnx", "--size", "small"], "--size small: WIDTHxHEIGHT"),
    ("a size too small", ["--model", "onnx", "--size", "1x1"], "--size 1x1: WIDTHxHEIGHT"),
    ("video and frames", ["--model", "onnx", "--clips", "{}"], "--data FOLDER (frames with masks) or --clips"),
    ("a plot of no noise", ["--model", "onnx", "--noise-plot", "{}/p.png"], "--noise-plot: means nothing without"),
    ("a clip of nothing", ["--model", "onnx", "--clip", "a"], "--clip: means nothing without --clips"),
    ("stages of no frame", ["--model", "onnx", "--stages", "{}/s.png"], "--frames NAME,NAME is expected"),
    (
        "stages of an engine",
        ["--model", "onnx", "--stages", "{}/s.png", "--frames", "f21"],
        "runs in an engine; weights are needed",
    ),
]


@pytest.mark.parametrize(("why", "words", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_input_is_one_line(why, words, error, forms, tiny_set, run, tmp_path):
    """Whatever cannot be used is one line on stderr and exit code 2."""
    words = [str(forms[2]) if word == "onnx" else word.format(tmp_path) for word in words]
    done = run(*words, *(() if "--data" in words else ("--data", tiny_set)))
    assert done.exit_code == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert error in lines[0]


BLOCKED = """
import sys
sys.modules["torch"] = sys.modules["safetensors"] = None
import typer, training.evaluate
typer.run(training.evaluate.main)
"""


def test_onnx_needs_no_torch(forms, tiny_set):
    """Where torch is not installed, a model in ONNX is measured all the same, and weights are refused."""

    def measure(form):
        words = [sys.executable, "-c", BLOCKED, "--model", str(form), "--data", str(tiny_set), "--json", "-"]
        return subprocess.run(words, capture_output=True, text=True, timeout=100, check=False)

    done = measure(forms[2])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["frames"] == 4
    refused = measure(forms[1])
    assert refused.returncode == 2
    assert "weights need PyTorch" in refused.stderr
