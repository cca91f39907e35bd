"""The GPU's thin convolutions are PyTorch's; without a GPU, Triton's interpreter runs them: TRITON_INTERPRET=1."""

import copy
import os

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("triton", reason="Triton is not installed; torch brings it where there is a GPU")
if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("needs an NVIDIA GPU, or TRITON_INTERPRET=1", allow_module_level=True)

from training import model, thin_gpu
from training.model import NetworkConfig, RPCANetPlus

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
EXACT = 1e-5 if DEVICE.type == "cpu" else 3e-3  # a GPU sums weights' gradients in TF32


@pytest.fixture(autouse=True)
def drawn():
    torch.manual_seed(0)
    torch.backends.cudnn.allow_tf32 = False


def draw(*shape):
    return torch.randn(*shape, device=DEVICE, requires_grad=True)


def assert_same(one, other, inputs):
    """The values, and the gradients of all inputs for one drawn gradient."""
    assert float((one - other).detach().norm() / other.detach().norm()) < 1e-5
    gradient = torch.randn_like(one)
    found, expected = (torch.autograd.grad(value, inputs, gradient) for value in (one, other))
    for mine, theirs in zip(found, expected, strict=True):
        assert float((mine - theirs).norm() / theirs.norm()) < EXACT


@pytest.mark.parametrize("width", [2, 4, 16] if DEVICE.type == "cuda" else [2, 4])
def test_a_chain(width):
    """3x3 convolutions with a ReLU behind each, on a frame that no block divides."""
    x, weights = draw(2, width, 13, 17), [draw(width, width, 3, 3) for _ in range(3)]
    biases = [draw(width) for _ in range(3)]
    plain = x
    for weight, bias in zip(weights, biases, strict=True):
        plain = F.relu(F.conv2d(plain, weight, bias, padding=1))
    assert_same(thin_gpu.chain(x, weights, biases), plain, [x, *weights, *biases])


def test_from_one_map_without_a_relu():
    """The first layer of a chain, whose input needs no gradient."""
    x, weight, bias = torch.randn(2, 1, 9, 33, device=DEVICE), draw(4, 1, 3, 3), draw(4)
    plain = F.conv2d(x, weight, bias, padding=1)
    assert_same(thin_gpu.chain(x, [weight], [bias], relu=False), plain, [weight, bias])


def test_batch_norm_and_relu():
    """With the batch's statistics, which the layer keeps."""
    x = draw(3, 4, 13, 17)
    norm = torch.nn.BatchNorm2d(4).to(DEVICE)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    other = copy.deepcopy(norm)
    made, plain = thin_gpu.norm_relu(x, norm), F.relu(other(x))
    torch.testing.assert_close(made, plain, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(made)
    found = torch.autograd.grad(made, [x, norm.weight, norm.bias], gradient)
    expected = torch.autograd.grad(plain, [x, other.weight, other.bias], gradient)
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
    for mine, theirs in zip(norm.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_sums_of_shifted_windows():
    """What the attention's mean is made of."""
    x = draw(2, 4, 13, 17)
    plain = F.unfold(x, 3, padding=1).reshape(2, 4, 9, -1).sum(3).reshape(2, 4, 3, 3)
    made = thin_gpu.window_sums(x)
    torch.testing.assert_close(made, plain, rtol=1e-4, atol=1e-4)
    gradient = torch.randn_like(made)
    found, expected = (torch.autograd.grad(value, x, gradient)[0] for value in (made, plain))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_tail_is_two_convolutions():
    """Nine maps of every frame's own weights, then their shifts, with zeros around both."""
    x, weight, bias = draw(2, 4, 13, 17), draw(2, 9, 4, 3, 3), draw(2, 9)
    maps = torch.stack([F.conv2d(x[n : n + 1], weight[n], bias[n], padding=1)[0] for n in range(2)])
    plain = F.conv2d(maps, torch.eye(9, device=DEVICE).view(1, 9, 3, 3), padding=1)
    assert_same(thin_gpu.tail(x, weight, bias), plain, [x, weight, bias])


@pytest.mark.parametrize("carry", [True, False])
def test_a_network_trains_as_pytorch_would_have_it(carry, monkeypatch):
    """Every part of every stage, and every gradient that is not nothing but rounding."""
    network = RPCANetPlus(NetworkConfig(stages=2, carry_noise=carry)).to(DEVICE).train()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    other, frames = copy.deepcopy(network), torch.rand(2, 1, 12, 10, device=DEVICE)
    found = []
    for each, thin in ((network, thin_gpu), (other, None)):
        monkeypatch.setattr(model, "_thin_of", lambda _, thin=thin: thin)
        stages = each.decompose(frames)
        parts = [part for stage in stages for part in (stage.background, stage.target, stage.noise, stage.frame)]
        torch.stack([part.square().mean() for part in parts]).sum().backward()
        found.append(parts)
    for one, another in zip(*found, strict=True):
        torch.testing.assert_close(one, another, rtol=1e-3, atol=1e-4)
    largest = max(float(parameter.grad.norm()) for parameter in other.parameters())
    for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
        if theirs.grad.norm() > 1e-4 * largest:
            assert float((mine.grad - theirs.grad).norm() / theirs.grad.norm()) < 10 * EXACT


def test_the_variance_of_what_is_far_from_zero():
    """Levels of 30 that differ by a hundredth: sums of squares in single precision would know nothing of it."""
    x = 30 + 0.01 * torch.randn(3, 4, 13, 17, device=DEVICE)
    norm = torch.nn.BatchNorm2d(4).to(DEVICE)
    torch.testing.assert_close(thin_gpu.norm_relu(x, norm), F.relu(copy.deepcopy(norm)(x)), rtol=0.1, atol=0.1)
