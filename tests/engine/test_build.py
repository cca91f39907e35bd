"""Real plans, built by TensorRT for RTX on the CPU for GPUs that are elsewhere."""

import json
import subprocess
import sys

import onnx
import pytest

from engine.build import Recipe, build_plan, find_library, onnx_for
from engine.contract import EngineError, find_model, read_model

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX is not installed: pip install '.[rtx]'")

ARCHS = ("80", "86", "89", "120")
SMALL = {"batch": (1, 2, 4), "height": (32, 64, 128), "width": (32, 96, 160)}


def build(bits=8, **changes):
    proto, info = read_model(find_model("rpcanet_plus_k1", bits))
    recipe = Recipe(**{**SMALL, "gpu_arch": "86", **changes})
    return build_plan(onnx_for(proto, info, recipe), info, recipe, trt)


@pytest.fixture(scope="module")
def plans():
    """The shipped model, built for each architecture."""
    return {arch: build(gpu_arch=arch) for arch in ARCHS}


@pytest.mark.parametrize("arch", ARCHS)
def test_every_convolution_is_half(arch, plans):
    """The network that was built computes every convolution in FP16, and only what is kept in FP32."""
    kinds = {}
    for layer in plans[arch].layers:
        kinds.setdefault(layer.kind, set()).update(layer.types)
    assert sum(layer.kind == "CONVOLUTION" for layer in plans[arch].layers) == 21
    assert kinds["CONVOLUTION"] == {"HALF"}
    assert kinds["REDUCE"] == {"FLOAT"}


@pytest.mark.parametrize("arch", ARCHS)
def test_profiles_are_as_asked(arch, plans):
    """The library took the shapes that the recipe names."""
    assert plans[arch].profiles == {
        "frames": [[1, 1, 32, 32], [2, 1, 64, 96], [4, 1, 128, 160]],
        "window": [[1, 2], [2, 2], [4, 2]],
    }


def test_a_rebuild_is_the_same_to_the_byte(plans):
    """Built again, a plan is the same; for another GPU it is another."""
    assert build().plan == plans["86"].plan
    assert len({built.plan for built in plans.values()}) == len(ARCHS)


def test_16_bit_and_fp32(plans):
    """A model for 16-bit frames builds, and so does one in FP32, whose convolutions are FLOAT."""
    deep = build(bits=16, precision="fp32")
    assert deep.profiles["frames"][1] == [2, 1, 64, 96, 2]
    assert {type_ for layer in deep.layers if layer.kind == "CONVOLUTION" for type_ in layer.types} == {"FLOAT"}


def test_progress_is_told(tiny_model):
    """Every phase that starts ends, and no step is beyond the last."""
    proto, info = read_model(tiny_model())
    recipe, told = Recipe(**SMALL, gpu_arch="86"), []
    build_plan(onnx_for(proto, info, recipe), info, recipe, trt, progress=lambda *each: told.append(each))
    started = [phase for phase, _, done, _ in told if done == 0]
    assert "Building engine" in started
    assert set(started) == {phase for phase, _, done, steps in told if done == steps}
    assert all(done <= steps for _, _, done, steps in told)


def unknown_operator(model):
    model.graph.node[-2].op_type = "RoundAndRound"


REFUSED = [
    ("an operator that is none", {"change": unknown_operator}, {}, r"^tiny: tensorrt_rtx refuses the model \(.*Round"),
    ("an architecture that is none", {}, {"gpu_arch": "42"}, r"^--gpu-arch 42: .* it builds for .*86"),
    ("a profile upside down", {}, {"batch": (4, 2, 1)}, r"^tiny: tensorrt_rtx (refuses the profile|builds no plan)"),
]


@pytest.mark.parametrize(("why", "model", "recipe", "said"), REFUSED, ids=[c[0] for c in REFUSED])
def test_what_cannot_be_built_is_said(why, model, recipe, said, tiny_model):
    """One line names the model or the option, and what the library said."""
    path = tiny_model(**model)
    info = read_model(tiny_model(name="fine.onnx"))[1]
    asked = Recipe(**{**SMALL, "gpu_arch": "86", **recipe})
    with pytest.raises(EngineError, match=said) as caught:
        build_plan(onnx.load(path).SerializeToString(), info, asked, trt)
    assert "\n" not in str(caught.value)


def test_a_graph_that_does_not_convert_is_said(tiny_model):
    """An operator that ONNX does not know stops the conversion to FP16, in one line."""
    info = read_model(tiny_model(name="fine.onnx"))[1]
    model = onnx.load(tiny_model(change=unknown_operator))
    with pytest.raises(EngineError, match=r"^tiny: no FP16 model comes of its graph \(.*RoundAndRound"):
        onnx_for(model, info, Recipe())


def test_a_library_that_is_not_there():
    """A library that is not installed is a line that says how to install it."""
    with pytest.raises(EngineError, match=r"^no_such_library: not installed; pip install"):
        find_library("no_such_library")


def command(*arguments, cache):
    env = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(cache)}
    return subprocess.run(
        [sys.executable, "-m", "engine.build", *arguments],
        capture_output=True,
        text=True,
        env=env,
        check=False,
        timeout=100,
    )


def test_the_command_builds_once(tmp_path, tiny_model):
    """The second run finds the plan of the first, in a folder that only its user reads."""
    arguments = ["--model", str(tiny_model()), "--gpu-arch", "89", "--size", "32x32:64x48:96x64", "--batch", "1:2:4"]
    first, second = (command(*arguments, "--json", "-", cache=tmp_path) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert not first.stderr.startswith("\n")  # of a progress bar, which only a terminal gets
    assert json.loads(first.stdout)["built"] is True
    assert json.loads(second.stdout)["built"] is False
    assert (tmp_path / "irstream" / "plans").stat().st_mode & 0o777 == 0o700


BAD = [
    (["--size", "64"], "error: --size '64': WIDTHxHEIGHT:"),
    (["--size", "64x64:32x32:96x96"], "error: --size '64x64:32x32:96x96': three that rise"),
    (["--batch", "0"], "error: --batch '0': three that rise"),
    (["--precision", "int8"], "error: --precision int8: fp16 or fp32"),
    (["--library", "onnx"], "error: --library onnx: tensorrt or tensorrt_rtx"),
    (["--bits", "12"], "--bits 12: 8 or 16 is expected"),
]


@pytest.mark.parametrize(("arguments", "said"), BAD, ids=[" ".join(c[0]) for c in BAD])
def test_a_mistake_is_one_line(arguments, said, capsys):
    """What is wrong is named, with what is expected; the exit code is 2."""
    from engine.build import main

    names = {"model": "rpcanet_plus_k1", "gpu_arch": "86", "json_path": None, "inspect": False}
    given = {"precision": "fp16", "batch": "1", "size": "64x64", "level": 3, "bits": 8, "library": None}
    given[arguments[0].removeprefix("--")] = int(arguments[1]) if arguments[0] == "--bits" else arguments[1]
    with pytest.raises(SystemExit) as caught:
        main(**names, **given)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert said.removeprefix("error: ") in error
    assert error.count("\n") == 1
