"""The bench times engines side by side and says nothing but JSON where it is asked to."""

import json

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from engine import bench, limits
from engine.contract import MODELS, ModelInfo, read_model
from engine.limits import Gemm, precision_of, work_of

KEYS = {"engine", "model", "size", "batch", "median_ms", "p99_ms", "frames_per_s", "ratio"}
YARDSTICKS = {"gflop_per_s", "precision", "limit_fraction", "megabytes_moved"}


@pytest.fixture
def run():
    """Run the bench as a command line does."""
    import typer

    app = typer.Typer()
    app.command()(bench.main)
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words])


def test_every_engine_size_and_batch_has_its_row(tiny_model, run):
    """Two engines, two sizes and two batches are eight rows, and stdout is JSON alone."""
    path = tiny_model()
    shapes = ("--size", "32x24,16x16", "--batch", "1,2")
    done = run("--model", path, "--engine", "openvino,onnxruntime", *shapes, "--seconds", 0.01, "--json", "-")
    assert done.exit_code == 0
    results = json.loads(done.stdout)["results"]
    assert [(r["engine"], r["size"], r["batch"]) for r in results] == [
        (engine, size, batch)
        for size in ("32x24", "16x16")
        for batch in (1, 2)
        for engine in ("openvino", "onnxruntime")
    ]
    for result in results:
        assert result.keys() == KEYS | YARDSTICKS
        assert result["model"] == str(path)
        assert 0 < result["median_ms"] <= result["p99_ms"]
        assert result["frames_per_s"] == pytest.approx(1e3 * result["batch"] / result["median_ms"])
    assert [r["ratio"] for r in results[::2]] == [1.0] * 4


def test_16_bit_models_are_given_16_bit_frames(tiny_model, run):
    """The model's own depth tells that of the frames."""
    done = run("--model", tiny_model(bits=16), "--seconds", 0.01, "--size", "16x16", "--json", "-")
    assert done.exit_code == 0


def test_a_table_without_json(tiny_model, run, tmp_path):
    """Without --json - a table is printed, and --json PATH writes beside it."""
    done = run("--model", tiny_model(), "--seconds", 0.01, "--size", "16x16", "--json", tmp_path / "r.json")
    assert done.exit_code == 0
    assert "openvino" in done.stdout
    assert "frames/s" in done.stdout
    assert json.loads((tmp_path / "r.json").read_text())["results"][0]["engine"] == "openvino"


def test_the_yardsticks_are_those_of_the_convolutions():
    """A stage's arithmetic and traffic are what pencil and paper give; a batch of two has twice the arithmetic."""
    model, _ = read_model(MODELS / "rpcanet_plus_k1.onnx")
    pixels = 48 * 40
    layers = 2 * (4 + 32 * 4 * 9 + 9 * 32 + 9 * 9) + (3 + 6) * 4 * 4 * 9  # of W and H, multiplications a pixel
    once = 2 * 2 * 32 * 2  # both attentions
    assert work_of(model, 1, 48, 40).operations == 2 * (layers * pixels + once)
    maps = 2 * ((1 + 4) + (4 + 32) + (32 + 9) + (9 + 1)) + (3 + 6) * (4 + 4)  # read and written, a pixel
    assert 0 < work_of(model, 1, 48, 40).bytes_moved - 4 * maps * pixels < 4 * 5_000  # the weights
    assert work_of(model, 2, 48, 40).operations == 2 * work_of(model, 1, 48, 40).operations


def test_a_limit_is_of_the_precision_that_is_timed():
    """bf16 is the engine's, INT8 the model's, and eager PyTorch runs neither; a product of each kind can be timed."""
    plain, _ = read_model(MODELS / "rpcanet_plus_k1.onnx")
    small = onnx.ModelProto()
    small.CopyFrom(plain)
    small.graph.node.add(op_type="QuantizeLinear")
    assert precision_of(plain, "openvino") == precision_of(small, "pytorch") == "f32"
    assert precision_of(plain, "openvino:bf16") == "bf16"
    assert precision_of(plain, "tensorrt") == precision_of(plain, "cuda") == "f16"
    assert precision_of(small, "openvino") == precision_of(small, "onnxruntime") == "int8"
    frames, window = np.zeros((1, 1, 8, 8), np.uint8), np.zeros((1, 2), np.float32)
    for precision in ("f32", "bf16", "int8"):
        assert Gemm(None, precision).infer(frames, window) is frames


@pytest.mark.timeout(300)  # torch takes seconds of CPU to import, more where it is shared
def test_the_reference_is_timed_with_the_engines(run):
    """Eager PyTorch runs in turns with the engines, and every ratio is to it."""
    pytest.importorskip("torch")
    shape = ("--size", "32x24", "--seconds", 0.05)
    done = run("--model", "rpcanet_plus_k1", "--engine", "openvino", *shape, "--reference", "--json", "-")
    assert done.exit_code == 0, done.stderr
    reference, engine = json.loads(done.stdout)["results"]
    assert (reference["engine"], engine["engine"]) == ("pytorch", "openvino")
    assert reference["ratio"] == 1.0
    assert engine["ratio"] == pytest.approx(reference["median_ms"] / engine["median_ms"])
    assert engine["limit_fraction"] / engine["gflop_per_s"] == pytest.approx(
        reference["limit_fraction"] / reference["gflop_per_s"]
    )


def test_without_pytorch_there_is_no_reference(tiny_model, run, monkeypatch):
    """A reference that cannot run is one line that says what to install."""
    monkeypatch.setattr(limits.sys, "executable", "/bin/false")
    done = run("--model", tiny_model(), "--reference", "--size", "8x8")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: --reference: eager PyTorch does not run")
    assert "pip install 'irstream[train]'" in done.stderr
    assert done.stderr.count("\n") == 1


class Sleeper:
    """An engine that takes as long as it is told, and longer on its first call of a turn, by a clock of its own."""

    name = "sleeper"
    info: ModelInfo

    def __init__(self, seconds, log, clock):
        self.seconds, self.log, self.clock = seconds, log, clock

    def prepare(self, batch, height, width):
        pass

    def infer(self, frames, window):
        self.clock.append(self.clock[-1] + self.seconds * (1 if self.log and self.log[-1] is self else 5))
        self.log.append(self)
        return frames


def test_engines_take_turns(monkeypatch):
    """Engines alternate, and the first call of a turn, which pays for the other engine's, is not counted."""
    log, clock = [], [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[-1])
    fast, slow = Sleeper(0.02, log, clock), Sleeper(0.06, log, clock)
    frames, window = np.zeros((1, 1, 2, 2), np.uint8), np.array([[0, 255]], np.float32)
    taken = bench.time_engines([fast, slow], frames, window, 1.0)
    turns = [engine for i, engine in enumerate(log) if i == 0 or log[i - 1] is not engine]
    assert turns == [fast, slow] * 5
    assert taken[0] == pytest.approx(0.02)
    assert taken[1] == pytest.approx(0.06)
    assert min(taken[0].sum(), taken[1].sum()) >= 1.0


def test_a_slow_engine_has_its_calls_too(monkeypatch):
    """One that takes a second a call is called often enough for a median."""
    log, clock = [], [0.0]
    monkeypatch.setattr(bench.time, "perf_counter", lambda: clock[-1])
    frames, window = np.zeros((1, 1, 2, 2), np.uint8), np.array([[0, 255]], np.float32)
    (taken,) = bench.time_engines([Sleeper(1.0, log, clock)], frames, window, 0.5)
    assert len(taken) == bench.LEAST_RUNS


BAD = [
    ("an unknown model", ["--model", "nope"], "nope: no such model"),
    ("a size that is none", ["--size", "256"], "--size '256': WIDTHxHEIGHT"),
    ("a size of nothing", ["--size", "0x8"], "--size '0x8'"),
    ("a batch that is none", ["--batch", "1,x"], "--batch 'x': a whole number from 1"),
    ("an empty batch", ["--batch", "0"], "--batch '0'"),
    ("an unknown engine", ["--engine", "openvino,quantum"], "quantum: no such engine"),
    ("no time", ["--seconds", "0"], "--seconds 0.0: a number above 0"),
    ("a size of too much", ["--size", "99999999x99999999"], "--size '99999999x99999999'"),
    ("a batch of too many", ["--batch", "100000"], "--batch '100000'"),
    ("a file in no folder", ["--json", "/no/r.json"], "--json /no/r.json: its folder does not exist"),
    ("a folder for a file", ["--json", "/tmp"], "--json /tmp: a folder"),
]


@pytest.mark.parametrize(("why", "words", "said"), BAD, ids=[c[0] for c in BAD])
def test_bad_input_is_one_line(why, words, said, tiny_model, run):
    """Every bad input is one clear line on stderr and exit code 2."""
    words = words if "--model" in words else ["--model", tiny_model(), *words]
    done = run(*words)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {said}")
    assert done.stderr.count("\n") == 1
