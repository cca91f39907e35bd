"""The CUDA engine's kernels compute the network: their very source runs here on a CPU, against ONNX Runtime.

A GPU is emulated (simt.h); CUDA's calls are imitated. What only a GPU can show, ``make gpu-check`` looks at.
"""

import functools
import importlib.util
import platform
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from engine import cuda, cuda_engine, cuda_plan
from engine.base import load_engine
from engine.contract import MODELS, EngineError, read_model
from engine.cuda_network import read_network
from engine.cuda_plan import KERNELS, kernels_of, room_for, work_of_plan
from engine.cuda_weights import pack_weights
from engine.parts import rebuilds


def beside(name):
    specification = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


emulator, imitation = beside("emulator"), beside("imitation")
K1 = MODELS / "rpcanet_plus_k1.onnx"
TRAINED_NOISE = 2  # grey levels, sigma
WINDOW = np.array([[0, 255]], np.float32)

emulated = pytest.mark.skipif(
    not shutil.which("g++") or platform.machine() != "x86_64", reason="the GPU's emulator needs g++ and an x86-64"
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Where compiled kernels lie."""
    return tmp_path_factory.mktemp("kernels")


@pytest.fixture(scope="session")
def write(tmp_path_factory):
    """Write a model of random weights that use every part of it; the same one once."""
    torch = pytest.importorskip("torch")
    from training.export import describe, export
    from training.model import NetworkConfig, RPCANetPlus
    from training.weights import save_network

    @functools.cache
    def model(bits=8, **config):
        torch.manual_seed(1)
        network = RPCANetPlus(NetworkConfig(**config)).eval()
        with torch.no_grad():
            for part in network.modules():
                if isinstance(part, torch.nn.BatchNorm2d):
                    part.running_mean.uniform_(-0.1, 0.1)
                    part.running_var.uniform_(0.5, 1.5)
                if isinstance(part, torch.nn.Conv2d):
                    part.bias.uniform_(-0.1, 0.1)
            for stage in network.stages:
                stage.epsilon.fill_(0.3)
                stage.sigma.fill_(0.2)
                # T spread over the grey levels, so that an error shows in them.
                stage.background.head.project.weight.mul_(4)
        at = tmp_path_factory.mktemp("models") / "random.safetensors"
        save_network(network, at)
        export(network, at.with_suffix(".onnx"), describe(network, at, "random", "nothing", bits=bits))
        return at.with_suffix(".onnx")

    return model


def frames_for(info, batch, height, width, noise=12):
    """Noise with a target a frame, and windows that clip some of it."""
    rng = np.random.default_rng(0)
    pixels = rng.normal(90, noise, (batch, 1, height, width)).clip(0, 255)
    pixels[:, :, height // 2 : height // 2 + 3, width // 3 : width // 3 + 3] = 250
    window = np.array([[80, 200], *[[0, 255]] * batch], np.float32)[:batch]
    if info.bits == 8:
        return pixels.astype(np.uint8), window
    return (257 * pixels).astype("<u2")[..., None].view(np.uint8), window * 257


def check(path, folder, batch, height, width, noise=12, **how):
    """Compare the emulated GPU's answers with ONNX Runtime's; return them."""
    proto, info = read_model(path)
    frames, window = frames_for(info, batch, height, width, noise)
    found = emulator.Emulated(proto, info, folder, **how).infer(frames, window)
    exact = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"frames": frames, "window": window})[0]
    assert (np.abs(found.astype(int) - exact) <= 2).mean() >= 0.9999
    return found


SIZES = [
    ("several tiles, none whole", 40, 50),
    ("a tile and a column", 17, 33),
    ("exactly a tile", 16, 32),
    ("a row", 1, 40),
    ("a column", 40, 1),
    ("a pixel", 1, 1),
    ("two by two, all of it border", 2, 2),
]


@emulated
@pytest.mark.parametrize(("why", "height", "width"), SIZES, ids=[c[0] for c in SIZES])
def test_the_shipped_model(why, height, width, folder):
    """Sizes that the tiles of 32 by 16 do not divide, and frames smaller than what a pixel sees.

    With noise such as it was trained on: of more it makes targets everywhere, and rounding shows in one pixel of 2,000.
    """
    check(K1, folder, 2, height, width, TRAINED_NOISE)
    if why == "a tile and a column":
        check(MODELS / "rpcanet_plus_k1_16bit.onnx", folder, 2, height, width, TRAINED_NOISE)
        check(MODELS / "rpcanet_plus_k3_light.onnx", folder, 2, height, width, TRAINED_NOISE)


NETWORKS = [
    ("noise carried, published widths", {"stages": 2, "carry_noise": True}),
    (
        "16 channels, 16 bit, other depths",
        {"bits": 16, "stages": 3, "bottleneck": 16, "background_layers": 1, "target_layers": 2, "noise_layers": 3,
         "merge_layers": 2, "carry_noise": True},
    ),
    (
        "8 channels of 16 used, chains of one layer and none",
        {"stages": 2, "bottleneck": 8, "channels": 24, "background_layers": 2, "target_layers": 1, "noise_layers": 0,
         "merge_layers": 1, "carry_noise": False},
    ),
    ("without F and M", {"stages": 3, "rebuild": False}),
]  # fmt: skip


@emulated
@pytest.mark.parametrize(("why", "config"), NETWORKS, ids=[c[0] for c in NETWORKS])
def test_networks_of_the_contract(why, config, folder, write):
    """Any K, b up to 16, depths, and N carried or not.

    A frame at a time, with warps and blocks in the reverse order, the answers are the same bit for bit: no barrier is
    missing.
    """
    path = write(**config)
    proto, info = read_model(path)
    assert rebuilds(proto.graph, info.stages) == config.get("rebuild", True)
    found = check(path, folder, 2, 17, 37)
    assert (check(path, folder, 2, 17, 37, together=1, backwards=True) == found).all()


@emulated
def test_an_authors_network(folder, data, tmp_path):
    """Trained weights, b = 16, on a piece of a real frame. Six stages take long to export: the first two."""
    pytest.importorskip("torch")
    from training.export import describe, export
    from training.weights import load_network

    name = "IRSTD_1K_mIoU_64.68"
    weights = data / "checkpoints" / "l-rpcanet" / f"{name}.pkl"
    network, _ = load_network(weights)
    network.stages, network.config = network.stages[:2], replace(network.config, stages=2)
    export(network, tmp_path / "authors.onnx", describe(network, weights, "authors", "theirs"))
    proto, info = read_model(tmp_path / "authors.onnx")
    reference = np.load(data / "reference" / f"{name}.npz")
    key = next(key for key in reference.files if key.endswith(".frame"))
    frames = np.ascontiguousarray(reference[key].reshape(1, 1, 256, 256)[:, :, 100:124, 80:112])
    found = emulator.Emulated(proto, info, folder).infer(frames, WINDOW)
    exact = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"frames": frames, "window": WINDOW})[0]
    assert (np.abs(found.astype(int) - exact) <= 2).mean() >= 0.9999


@pytest.fixture
def gpu(monkeypatch, folder):
    """A machine with an emulated GPU; machine code is the path of a library."""
    runtime = imitation.Cuda()
    driver = emulator.Driver(runtime)
    monkeypatch.setattr(cuda, "cuda_runtime", lambda: runtime)
    monkeypatch.setattr(cuda_engine, "cuda_runtime", lambda: runtime)
    monkeypatch.setattr(cuda_engine, "cuda_driver", lambda: driver)
    monkeypatch.setattr(cuda_engine, "USUAL_HEIGHT", 20)
    monkeypatch.setattr(cuda_engine, "USUAL_WIDTH", 20)
    monkeypatch.setattr(
        cuda_engine, "compile_kernels", lambda info, weights, arch: emulator.build(weights, folder)._name.encode()
    )
    return driver


@emulated
def test_the_engine_on_an_emulated_gpu(gpu, folder):
    """Loaded by name: the first run, the captured one and the graph's answer alike; only kernels that K=1 needs run."""
    engine = load_engine(str(K1), "cuda")
    frames, window = frames_for(engine.info, 1, 20, 40)
    answers = [engine.infer(frames, window) for _ in range(5)]
    assert all((answer == answers[0]).all() for answer in answers)
    assert (answers[0] == check(K1, folder, 1, 20, 40)).all()
    assert set(gpu.launched) == {"chain_frame", "chain_target", "answer"}
    assert gpu.runtime.calls.count("cudaGraphLaunch") > 3


FAILURES = [
    (
        "kernels that the driver does not load",
        {"load": 209},
        r"^rpcanet_plus_k1: CUDA: loading the kernels: failure 209$",
    ),
    ("too little shared memory", {"shared": 1}, r"^rpcanet_plus_k1: CUDA: \d+ kB of shared memory for chain_frame"),
    ("a launch that fails", {"launch": 701}, r"^rpcanet_plus_k1: CUDA: launching chain_frame: failure 701$"),
]


@emulated
@pytest.mark.parametrize(("why", "fails", "said"), FAILURES, ids=[c[0] for c in FAILURES])
def test_a_failure_is_one_line_and_auto_goes_on(why, fails, said, gpu, capfd):
    """Asked for by name, the engine says what failed; ``auto`` says it too and takes the next engine."""
    gpu.fail.update(fails)
    with pytest.raises(EngineError, match=said):
        load_engine(str(K1), "cuda")
    assert load_engine(str(K1)).name == "openvino"
    assert "; cuda is not used\n" in capfd.readouterr().err


def test_an_old_gpu_is_said(gpu, monkeypatch):
    """Without the tensor cores' products of 16x8x16 nothing is compiled."""
    monkeypatch.setattr(cuda_engine, "find_gpu", lambda: cuda.Gpu("Old sm_75", "75", 13000))
    with pytest.raises(EngineError, match=r"^Old sm_75: the CUDA engine needs compute capability 8.0"):
        load_engine(str(K1), "cuda")


def test_nvrtc_that_is_not_installed(monkeypatch):
    """Its line says what to install."""
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-bindings is not installed")

    def missing(*_):
        raise RuntimeError("Failure finding libnvrtc.so")

    monkeypatch.setattr(nvrtc, "nvrtcCreateProgram", missing)
    proto, info = read_model(K1)
    weights = pack_weights(read_network(proto.graph, info), info)
    with pytest.raises(EngineError, match=r"NVRTC does not load \(.*\); pip install 'irstream\[cuda\]'$"):
        cuda_engine.compile_kernels(info, weights, "90")


def other_sum(graph):
    """Let H read T + D + B."""
    [node for node in graph.node if node.op_type == "Sub"][-3].op_type = "Add"


def no_sigmoid(graph):
    """Put another function in the place of the attention's sigmoid."""
    next(node for node in graph.node if node.op_type == "Sigmoid").op_type = "Tanh"


def sharper(graph):
    """Put another function in the place of the answer's sigmoid."""
    [node for node in graph.node if node.op_type == "Sigmoid"][-1].op_type = "Tanh"


OTHERS = [
    (
        "an attention that is none",
        no_sigmoid,
        r"^rpcanet_plus_k1: not a network that the CUDA engine computes: 1 chains",
    ),
    ("an answer that is not T", sharper, r"computes: 'targets' is not made by Sigmoid"),
    ("another sum of maps", other_sum, r"computes: '.*' is {.*}; {.*} is expected"),
]


@pytest.mark.parametrize(("why", "change", "said"), OTHERS, ids=[c[0] for c in OTHERS])
def test_a_graph_that_is_another_network_is_refused(why, change, said):
    """What the kernels would compute otherwise is not taken for the same."""
    proto, info = read_model(K1)
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    change(graph)
    with pytest.raises(EngineError, match=said):
        read_network(graph, info)


def wider(chain):
    """Give a chain a first convolution to 20 channels."""
    return replace(chain, first=(np.zeros((20, 1, 1, 1), np.float32), np.zeros(20, np.float32)))


def more_maps(chain):
    """Give a chain's attention 48 channels."""
    return replace(chain, head=replace(chain.head, project=np.zeros((48, 9), np.float32)))


def deeper(chain):
    """Give a chain 13 layers."""
    return replace(chain, layers=13 * chain.layers[:1])


TOO_WIDE = [
    ("b", wider, "b, channels of W, H and F: 20; the CUDA engine has one number from 1 to 16"),
    ("c", more_maps, "c, channels of the attention: 48; the CUDA engine has one number from 1 to 32"),
    ("depth", deeper, "3x3 layers of W: 13; the CUDA engine has one number from 0 to 12"),
]


@pytest.mark.parametrize(("why", "change", "said"), TOO_WIDE, ids=[c[0] for c in TOO_WIDE])
def test_widths_that_the_kernels_do_not_have(why, change, said):
    """One line says which width or depth, and what there is."""
    proto, info = read_model(K1)
    network = read_network(proto.graph, info)
    stage = network.stages[0]
    other = replace(stage, background=change(stage.background), target=change(stage.target))
    with pytest.raises(EngineError, match=said):
        pack_weights(replace(network, stages=(other,)), info)


def test_room_is_that_of_the_frames_that_go_together(write):
    """A large batch takes the maps of as many frames as fit the cache, not of all."""
    proto, info = read_model(write(stages=2, carry_noise=True))
    weights = pack_weights(read_network(proto.graph, info), info)
    assert room_for(weights, 64, 256, 256).together == cuda_plan.TOGETHER // 256**2
    assert room_for(weights, 64, 256, 256).size < 1.1 * room_for(weights, 8, 256, 256).size
    assert room_for(weights, 2, 4000, 4000).together == 1
    assert [KERNELS[index] for index in kernels_of(weights)][-3:] == ["merge_first", "merge_next", "merge_last"]


def test_a_network_without_f_and_m_costs_what_it_has(write):
    """A later stage's W begins with T alone: nothing of 32 channels is compiled, kept or counted."""
    proto, info = read_model(write(stages=3, rebuild=False))
    weights = pack_weights(read_network(proto.graph, info), info)
    names = ["chain_frame", "chain_again", "chain_target", "answer"]
    assert [KERNELS[index] for index in kernels_of(weights)] == names
    places = room_for(weights, 1, 256, 256).places
    assert places["merged0"] == places["tail0"]
    work = work_of_plan(weights, 1, 30, 40)
    assert work.operations == 2 * 30 * 40 * 3 * (4 + 3 * 144 + 100 + 4 + 6 * 144 + 100)
    assert work.bytes_moved == 30 * 40 * ((9 + 20) + (8 + 4 + 1 + 4 + 8) + (4 + 20) + 25 + 24 + (8 + 4 + 1))


def test_the_work_is_counted(write):
    """The shipped model's arithmetic and traffic a pixel, as pencil and paper have it."""
    proto, info = read_model(K1)
    work = work_of_plan(pack_weights(read_network(proto.graph, info), info), 2, 30, 40)
    pixels = 2 * 30 * 40
    assert work.operations == 2 * pixels * (4 + 3 * 144 + 100 + 4 + 6 * 144 + 100)
    assert work.bytes_moved == pixels * ((1 + 8) + (8 + 4 + 8) + (8 + 4 + 1))


def test_the_names_that_are_used_exist():
    """Every call of CUDA's driver and of NVRTC that the engine makes is one of the real bindings."""
    driver = pytest.importorskip("cuda.bindings.driver", reason="cuda-bindings is not installed")
    from cuda.bindings import nvrtc

    text = Path(cuda_engine.__file__).read_text()
    import re

    names = set(re.findall(r"driver\.(cu\w+)", text))
    assert len(names) > 6
    assert [name for name in sorted(names) if not hasattr(driver, name)] == []
    assert [name for name in sorted(set(re.findall(r"nvrtc\.(nvrtc\w+)", text))) if not hasattr(nvrtc, name)] == []
    assert driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    assert int(attribute) == emulator.Driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES


def test_without_bindings(monkeypatch):
    """Without CUDA's bindings the line says what to install."""
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match=r"bindings do not load"):
        load_engine(str(K1), "cuda")
