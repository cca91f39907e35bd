"""Small networks and small data sets for the tests of training."""

import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("torch", reason="the train extra is not installed: pip install 'irstream[train]'")
sys.path.insert(0, str(Path(__file__).parent))

import torch

from training.model import NetworkConfig, RPCANetPlus

torch.set_num_threads(1)  # small tensors: threads that wait for each other on a busy machine wait long


def stirred(config: NetworkConfig, seed: int = 0) -> RPCANetPlus:
    """A network whose every weight and running mean counts, in evaluation mode."""
    torch.manual_seed(seed)
    network = RPCANetPlus(config)
    with torch.no_grad():
        for stage in network.stages:
            stage.target.head.project.weight.mul_(100)  # H starts small
        for name, value in network.state_dict().items():
            if name.endswith(("epsilon", "sigma")):
                value.uniform_(0.2, 0.6)
            elif name.endswith("running_var") or (value.dim() == 1 and name.endswith("weight")):
                value.uniform_(0.5, 1.5)
            elif name.endswith("running_mean"):
                value.normal_(0, 0.2)
            elif name.endswith("bias"):
                value.normal_(0, 0.1)
    return network.eval()


@pytest.fixture(scope="session")
def make_network() -> Callable[..., RPCANetPlus]:
    return lambda seed=0, **widths: stirred(NetworkConfig(**widths), seed)


@pytest.fixture(scope="session")
def tiny_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one data set, `dots`: bright dots on noise; a tenth of `train` is held out."""
    folder = tmp_path_factory.mktemp("data") / "dots"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(0)
    names = [f"f{index:02}" for index in range(24)]
    assert any(zlib.crc32(name.encode()) % 10 == 0 for name in names[:20])
    for index, name in enumerate(names):
        frame, mask = rng.integers(40, 90, (40, 48), np.uint8), np.zeros((40, 48), np.uint8)
        if index % 5:
            y, x = rng.integers(2, 36, 2)
            frame[y : y + 3, x : x + 3] = 230
            mask[y : y + 3, x : x + 3] = 255
        cv2.imwrite(str(folder / "images" / f"{name}.png"), frame)
        cv2.imwrite(str(folder / "masks" / f"{name}.png"), mask)
    (folder / "train.txt").write_text("\n".join(names[:20]))
    (folder / "test.txt").write_text("\n".join(names[20:]))
    return folder
