"""The GPU's bench: what it makes of times, of PyTorch's lines and of wrong words. No GPU is asked."""

import json
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from engine import gpu_bench
from engine.contract import MODELS, read_model
from engine.cuda import Gpu
from engine.cuda_network import read_network
from engine.cuda_weights import pack_weights

LIMITS = {"copy_bytes_per_s": 4e12, "matmul_flop_per_s": 8e14}
EAGER = {
    "engine": "pytorch fp32, eager",
    "size": "64x48",
    "batch": 1,
    "median_ms": 5.0,
    "p99_ms": 6.0,
    "frames_per_s": 200,
}


class Engine:
    """One that takes half a millisecond on the GPU."""

    def __init__(self):
        proto, info = read_model(MODELS / "rpcanet_plus_k1.onnx")
        self.weights = pack_weights(read_network(proto.graph, info), info)
        self.times_ms = {"compute": 0.5}

    def lock_pages(self, memory):
        return True

    def prepare(self, *shape):
        self.shape = shape

    def infer(self, frames, window):
        assert frames.shape == (self.shape[0], 1, *self.shape[1:])
        return np.zeros_like(frames)


@pytest.fixture
def run(monkeypatch):
    """Run the bench as a command line does, on a machine with a GPU that is imitated."""
    import typer

    monkeypatch.setattr(gpu_bench, "find_gpu", lambda: Gpu("Imitation sm_90", "90", 13000))
    monkeypatch.setattr(gpu_bench, "load_engine", lambda *_: Engine())
    app = typer.Typer()
    app.command()(gpu_bench.main)
    shape = ("--size", "64x48", "--batch", "1,2", "--seconds", "0.001")
    return lambda *words: CliRunner().invoke(app, ["--model", "rpcanet_plus_k1", *shape, *words])


def answering(*lines, code=0, error=b""):
    """Stand in for ``subprocess.run``."""
    text = "".join(json.dumps(line) + "\n" for line in lines).encode()
    return lambda *_, **__: SimpleNamespace(stdout=text, stderr=error, returncode=code)


def test_every_batch_has_its_row_beside_pytorch(run, monkeypatch):
    """PyTorch's lines come first; the engine's have the GPU's time, and shares of what this GPU can do."""
    monkeypatch.setattr(subprocess, "run", answering({"limits": LIMITS, "gpu": "x"}, EAGER))
    done = run("--reference", "--json", "-")
    assert done.exit_code == 0
    figures = json.loads(done.stdout)
    assert figures["gpu"]["name"] == "Imitation sm_90"
    eager, one, two = figures["results"]
    assert (eager["engine"], eager["compute_ms"]) == ("pytorch fp32, eager", None)
    assert (one["batch"], two["batch"], one["compute_ms"]) == (1, 2, 0.5)
    assert two["matmul_fraction"] == pytest.approx(2 * one["matmul_fraction"])
    pixels = 64 * 48
    assert one["copy_fraction"] == pytest.approx((9 + 20 + 13) * pixels / 0.5e-3 / 4e12)


def test_a_table_without_a_reference(run):
    """Without PyTorch there are no shares, and the table says the rest."""
    done = run()
    assert done.exit_code == 0
    assert "Imitation sm_90" in done.stdout
    assert "GPU ms" in done.stdout


REFERENCES = [
    ("one that is not installed", answering(code=1, error=b"Traceback\nNo module named 'torch'"), 2, "No module named"),
    (
        "one that ends early",
        answering({"limits": LIMITS}, EAGER, code=1, error=b"out of memory"),
        0,
        "PyTorch ended early",
    ),
]


@pytest.mark.parametrize(("why", "answers", "code", "said"), REFERENCES, ids=[c[0] for c in REFERENCES])
def test_a_reference_that_fails(why, answers, code, said, run, monkeypatch):
    """Nothing from PyTorch is an error; what came before it failed is kept."""
    monkeypatch.setattr(subprocess, "run", answers)
    done = run("--reference")
    assert done.exit_code == code
    assert said in done.stderr


def test_a_reference_that_takes_too_long(run, monkeypatch):
    """What it said until then is kept."""

    def slow(*_, **__):
        raise subprocess.TimeoutExpired(
            "python", 600, output=json.dumps({"limits": LIMITS}).encode() + b'\n{"engine": "py'
        )

    monkeypatch.setattr(subprocess, "run", slow)
    done = run("--reference")
    assert done.exit_code == 0
    assert "it took more than 600 s" in done.stderr


WRONG = [("a size", "--size", "64", "WIDTHxHEIGHT"), ("a batch", "--batch", "0", "a whole number from 1 to 999")]


@pytest.mark.parametrize(("why", "option", "word", "said"), WRONG, ids=[c[0] for c in WRONG])
def test_wrong_words_are_one_line(why, option, word, said, run):
    """The line names the option and what is right."""
    done = run(option, word)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"error: {option} '{word}': ")
    assert said in done.stderr
