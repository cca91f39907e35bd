"""What is exported keeps the contract and answers like the network it came from."""

import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from engine.base import CPU_ENGINES, load_engine
from engine.contract import read_model
from training import export as exporter
from training.export import Deployed, describe, export
from training.weights import load_network, save_network

pytestmark = pytest.mark.timeout(600)  # torch takes seconds of CPU to export, minutes where it is shared


@pytest.fixture(scope="session")
def exported(make_network, tmp_path_factory):
    """A random network of two stages, exported for 8 and for 16 bit."""
    folder = tmp_path_factory.mktemp("models")
    network = make_network(stages=2, channels=16, bottleneck=2)
    with torch.no_grad():
        for stage in network.stages:
            stage.target.head.project.weight.mul_(40)  # answers of many grey levels, not of a few about the middle
    save_network(network, folder / "net.safetensors")
    for bits, name in ((8, "net.onnx"), (16, "net_16bit.onnx")):
        export(network, folder / name, describe(network, folder / "net.safetensors", "net", "dots", bits))
    return network, folder / "net.onnx"


SHAPES = [("one frame", 1, 32, 48), ("an odd size", 1, 37, 51), ("a batch", 3, 24, 40), ("a small frame", 2, 8, 8)]


@pytest.mark.parametrize("name", CPU_ENGINES)
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("why", "batch", "height", "width"), SHAPES, ids=[c[0] for c in SHAPES])
def test_engines_answer_like_pytorch(why, batch, height, width, bits, name, exported):
    """Within 2 of 255 grey levels at any size, batch, depth and window."""
    network, path = exported
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 1 << bits, (batch, 1, height, width), np.uint8 if bits == 8 else np.uint16)
    top = (1 << bits) - 1
    window = np.array([(0, top), (top // 4, top // 2), (10, top)][:batch], np.float32)
    frames = pixels if bits == 8 else pixels[..., None].view(np.uint8)
    found = load_engine(str(path), name, bits).infer(frames, window)
    scaled = (pixels.astype(np.float32) - window[:, 0, None, None, None]) / np.ptp(window, 1)[:, None, None, None]
    with torch.no_grad():
        want = network(torch.from_numpy(scaled).clamp(0, 1)).sigmoid().numpy() * 255
    assert want.std() > 5  # a flat answer would match anything
    assert np.abs(found - want).max() <= 2


KEYS = ["NUDT_SIRST_mIoU_92.37", "SIRST_Aug_mIoU_74.56", "IRSTD_1K_mIoU_64.68"]


@pytest.mark.parametrize("key", KEYS)
def test_the_authors_networks_through_both_engines(key, data, tmp_path):
    """The exported graph of each checkpoint is within 2 grey levels of PyTorch on every reference frame.

    OpenVINO compiles each size of frame for seconds: it gets the two smallest.
    """
    weights = data / "checkpoints" / "l-rpcanet" / f"{key}.pkl"
    network, _ = load_network(weights)
    path = tmp_path / "authors.onnx"
    export(network, path, describe(network, weights, "authors", "theirs"))
    engines = [load_engine(str(path), name) for name in CPU_ENGINES]
    window = np.array([[0, 255]], np.float32)
    with np.load(data / "reference" / f"{key}.npz") as reference:
        names = sorted((n for n in reference.files if n.endswith(".frame")), key=lambda n: reference[n].size)
        for place, name in enumerate(names):
            frame, logits = reference[name], reference[name.replace(".frame", ".logits")].astype(np.float64)
            want = 255 / (1 + np.exp(-np.clip(logits, -50, 50)))
            for engine in engines:
                if engine.name == "openvino" and place >= 2:
                    continue
                assert np.abs(engine.infer(frame[None, None], window)[0, 0] - want).max() <= 2, (name, engine.name)


@pytest.fixture(scope="session")
def published_k1(tmp_path_factory, make_network):
    """The published widths at K = 1, exported by the command."""
    folder = tmp_path_factory.mktemp("k1")
    save_network(make_network(stages=1), folder / "w.safetensors")
    (folder / "m.json").write_text(json.dumps({"iou": 0.5}))
    exporter.main(folder / "w.safetensors", folder / "k1.onnx", "dots", 8, 0.25, folder / "m.json")
    return folder / "k1.onnx"


def test_what_training_alone_needs_is_left_out(published_k1):
    """K = 1 has 4,651 parameters at inference, less 32 of batch norm folded into convolutions; no M and no F.

    The 81 zeros and ones that sum nine maps into one are no parameters.
    """
    model = onnx.load(published_k1)
    floats = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT]
    numbers = sum(int(np.prod(tensor.dims)) for tensor in floats if tensor.dims)  # 0, 1 and 255 have no dimension
    assert numbers == 4_651 - 32 + 81
    assert not any("merge" in tensor.name or "noise" in tensor.name for tensor in floats)
    assert not any("BatchNorm" in node.op_type for node in model.graph.node)
    widest = max(tensor.dims[0] for tensor in floats if len(tensor.dims) == 4)
    assert widest == 32


def test_a_model_says_what_it_is(published_k1):
    """The metadata are the command's words and the network's own."""
    _, info = read_model(published_k1)
    assert (info.name, info.stages, info.channels, info.bottleneck, info.bits) == ("k1", 1, 32, 4, 8)
    assert (info.trained_on, info.threshold, info.metrics, info.parameters) == ("dots", 0.25, {"iou": 0.5}, 35_986)
    assert re.fullmatch(r"[0-9a-f]{64}", info.weights_sha256)
    assert info.exporter.startswith("irstream, torch ")


def test_a_model_names_no_path_of_the_machine(published_k1):
    """Neither files nor folders of the exporting machine are in the file."""
    content = published_k1.read_bytes()
    for trace in (b".py", b"/home", b"/usr", b"site-packages", bytes(Path.cwd()), bytes(published_k1.parent)):
        assert trace not in content, trace


def test_a_window_is_clamped(make_network):
    """Pixels outside of the window are its ends."""
    network = Deployed(make_network(stages=1, channels=16, bottleneck=2), 8)
    window = torch.tensor([[50.0, 100.0]])
    pixels = torch.tensor([[20, 50, 75, 100, 240]], dtype=torch.uint8)[None, None].repeat(1, 1, 5, 1)
    with torch.no_grad():
        assert torch.equal(network(pixels, window), network(pixels.clamp(50, 100), window))


BAD = [
    ("weights that are not there", {"weights": "no.pkl"}, "no.pkl: no such file"),
    ("a depth no camera has", {"bits": 12}, "--bits 12: 8 or 16"),
    ("a threshold out of range", {"threshold": 1.0}, "--threshold 1.0"),
    ("another kind of file to write", {"out": "m.pt"}, "m.pt: a name that ends in .onnx"),
    ("figures that are not there", {"metrics": "no.json"}, "no.json: No such file"),
    ("figures that are no JSON", {"metrics": "bad.json"}, "bad.json: not JSON"),
    ("figures that are a list", {"metrics": "list.json"}, "list.json: an object of figures"),
]


@pytest.mark.parametrize(("why", "said", "error"), BAD, ids=[c[0] for c in BAD])
def test_bad_input_is_one_line(why, said, error, tmp_path, capsys):
    """Whatever cannot be used is one line on stderr and exit code 2."""
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    words = {"weights": "w.safetensors", "out": "m.onnx", "bits": 8, "threshold": 0.5, "metrics": None, **said}
    for key in ("weights", "out", "metrics"):
        words[key] = words[key] and tmp_path / words[key]
    with pytest.raises(SystemExit) as stopped:
        exporter.main(trained_on="dots", **words)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert error in lines[0]


def test_the_first_stages_alone(exported, tmp_path, capsys):
    """A network that answers after every stage is cut after one of them; more than it has is refused."""
    network, path = exported
    weights = path.with_name("net.safetensors")
    exporter.main(weights, tmp_path / "short.onnx", "dots", stages=1)
    _, info = read_model(tmp_path / "short.onnx")
    assert info.stages == 1
    frames = np.random.default_rng(1).integers(0, 256, (1, 1, 24, 32), np.uint8)
    found = load_engine(str(tmp_path / "short.onnx"), "onnxruntime").infer(frames, np.array([[0, 255]], np.float32))
    with torch.no_grad():
        want = network.decompose(torch.from_numpy(frames).float() / 255)[0].target.sigmoid().numpy() * 255
    assert np.abs(found - want).max() <= 2
    with pytest.raises(SystemExit):
        exporter.main(weights, tmp_path / "long.onnx", "dots", stages=3)
    assert f"error: --stages 3: {weights} has 2" in capsys.readouterr().err
