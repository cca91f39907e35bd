"""The network is the one that the facts describe, in both of its ways to compute."""

import numpy as np
import plain_rpcanet
import pytest
import torch

from training.model import NetworkConfig, RPCANetPlus
from training.weights import load_network

SMALL = {"channels": 16, "bottleneck": 2}


@pytest.mark.parametrize("stages", range(1, 8))
def test_parameters_of_the_published_widths(stages):
    """A stage has 35,986 parameters: 0.0360 to 0.2519 million for K = 1 to 7, as published."""
    network = RPCANetPlus(NetworkConfig(stages=stages))
    assert sum(value.numel() for value in network.parameters()) == 35_986 * stages


DEPTHS = {"background_layers": 1, "target_layers": 2, "noise_layers": 3, "merge_layers": 0}
PLAIN = [
    ("the published network, three stages of it", {"stages": 3}),
    ("N carried on", {"stages": 3, **SMALL}),
    ("N from 0 at every stage", {"stages": 3, "carry_noise": False, **SMALL}),
    ("without F and M", {"stages": 3, "rebuild": False, **SMALL}),
    ("other depths", {**DEPTHS, **SMALL, "stages": 2}),
    ("one stage", {"stages": 1, **SMALL}),
    ("fewer channels than the attention divides by", {"stages": 2, "channels": 8, "bottleneck": 3}),
]


@pytest.mark.parametrize(("why", "widths"), PLAIN, ids=[c[0] for c in PLAIN])
def test_equals_a_second_implementation(why, widths, make_network):
    """Every stage's B, T, N and D are those of a plain implementation with the same weights."""
    network = make_network(**widths)
    frame = torch.rand(2, 1, 21, 30, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours = network.decompose(frame)
        plain = plain_rpcanet.decompose(network.state_dict(), network.config, frame)
    for mine, theirs in zip(ours, plain, strict=True):
        for a, b in zip((mine.background, mine.target, mine.noise, mine.frame), theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_carrying_noise_matters(make_network):
    """The two ways are two networks from the second stage on, and one at the first."""
    carried, reset = make_network(stages=2, **SMALL), make_network(stages=2, carry_noise=False, **SMALL)
    frame = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        a, b = carried.decompose(frame), reset.decompose(frame)
    assert torch.equal(a[0].target, b[0].target)
    assert not torch.allclose(a[1].target, b[1].target)


def test_what_no_target_needs_is_left_out(make_network):
    """The last stage's N and D are computed on demand alone, and T is the same without."""
    network = make_network(stages=2, **SMALL)
    frame = torch.rand(1, 1, 16, 16)
    with torch.no_grad():
        short, whole = network.decompose(frame, whole=False), network.decompose(frame)
    assert short[-1].noise is None
    assert short[-1].frame is None
    assert torch.equal(short[-1].target, whole[-1].target)
    assert torch.equal(network(frame), whole[-1].target)


KEYS = ["NUDT_SIRST_mIoU_92.37", "SIRST_Aug_mIoU_74.56", "IRSTD_1K_mIoU_64.68"]


@pytest.mark.parametrize("key", KEYS)
def test_parity_with_the_authors_networks(key, data):
    """Their weights in our network answer within a thousandth of the largest logit, on every reference frame."""
    network, _ = load_network(data / "checkpoints" / "l-rpcanet" / f"{key}.pkl")
    with np.load(data / "reference" / f"{key}.npz") as reference:
        names = sorted(name.removesuffix(".frame") for name in reference.files if name.endswith(".frame"))
        assert len(names) == 4
        for name in names:
            frame, want = reference[f"{name}.frame"], reference[f"{name}.logits"]
            with torch.inference_mode():
                found = network(torch.from_numpy(frame).float()[None, None] / 255)[0, 0].numpy()
            assert np.abs(found - want).max() <= 1e-3 * np.abs(want).max(), name


def test_norms_that_several_gpus_share_are_not_passed_over():
    """The thin convolutions know no norm but PyTorch's plain one; one that GPUs share is computed all the same."""
    network = RPCANetPlus(NetworkConfig(stages=1, **SMALL)).train()
    frames = torch.rand(2, 1, 16, 16)
    plain = network(frames)
    shared = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    torch.testing.assert_close(shared(frames), plain, rtol=1e-3, atol=1e-4)


def test_a_large_step_of_a_small_h_is_the_published_start():
    """Epsilon starts at 1 with H a hundredth as large, where the authors have 0.01: the same T, which learns sooner."""
    torch.manual_seed(0)
    network = RPCANetPlus(NetworkConfig(stages=2)).eval()
    frame = torch.rand(1, 1, 24, 31)
    with torch.no_grad():
        ours = network(frame)
        for stage in network.stages:
            assert stage.epsilon.item() == 1
            stage.epsilon.mul_(0.01)
            for value in stage.target.head.project.parameters():
                value.mul_(100)
        assert torch.allclose(network(frame), ours, atol=1e-5)
