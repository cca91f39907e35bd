"""The thin convolutions that train on a CPU answer and learn as PyTorch's own do."""

from copy import deepcopy

import plain_rpcanet
import pytest
import torch
import torch.nn.functional as F

from training import thin

SMALL = {"channels": 16, "bottleneck": 2}
SIZES = [
    ("square", 1, 24, 24),
    ("odd", 2, 17, 31),
    ("one row", 2, 1, 9),
    ("one pixel", 1, 1, 1),
    ("two pixels", 3, 2, 2),
]
WIDTHS = [("the published width", 4), ("less than a group of four", 3), ("a group of four and some", 6), ("wide", 16)]


def close(mine, theirs):
    """float32 against float64: to a hundred-thousandth of the largest value."""
    for a, b in zip(mine, theirs, strict=True):
        assert (a.double() - b).abs().max() <= 1e-5 * max(b.abs().max().item(), 1e-2)


def gradients(out, upstream, leaves):
    (out * upstream).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize(("why", "batch", "height", "width"), SIZES, ids=[c[0] for c in SIZES])
@pytest.mark.parametrize(("width_of", "b"), WIDTHS, ids=[c[0] for c in WIDTHS])
def test_a_chain(why, batch, height, width, width_of, b):
    """Three convolutions, each with its ReLU: the same map and gradients."""
    torch.manual_seed(1)
    x, upstream = torch.randn(batch, 2, height, width), torch.randn(batch, b, height, width)
    weights = [0.4 * torch.randn(b, inputs, 3, 3) for inputs in (2, b, b)]
    biases = [0.1 * torch.randn(b) for _ in weights]
    leaves = [part.requires_grad_() for part in (x, *weights, *biases)]
    mine = gradients(thin.chain(thin.pad(x), weights, biases), thin.pad(upstream), leaves)
    mine[0] = mine[0][..., thin.PAD : -thin.PAD, thin.PAD : -thin.PAD]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    y = doubles[0]
    for weight, bias in zip(doubles[1:4], doubles[4:], strict=True):
        y = F.relu(F.conv2d(y, weight, bias, padding=1))
    close(mine, gradients(y, upstream.double(), doubles))


@pytest.mark.parametrize(("why", "batch", "height", "width"), SIZES, ids=[c[0] for c in SIZES])
def test_the_folded_head_equals_the_plain_one(why, batch, height, width, make_network):
    """Expanding, weighing and projecting in one folded step gives the same map and gradients, border included."""
    chain = make_network(stages=1, channels=16, bottleneck=3).stages[0].target
    exact = deepcopy(chain).double()
    torch.manual_seed(2)
    x, upstream = torch.randn(batch, 3, height, width), torch.randn(batch, 1, height, width)

    def run(how, part, dtype):
        part.zero_grad()
        leaf = x.detach().to(dtype, copy=True).requires_grad_()
        return gradients(how(leaf), upstream.to(dtype), [leaf, *part.expand.parameters(), *part.head.parameters()])

    exact.head.train()  # a convolution, as published
    plain = [value.clone() for value in run(lambda leaf: exact.head(exact.expand(leaf)), exact, torch.float64)]
    close(run(lambda leaf: chain.head.folded(thin.pad(leaf), chain.expand, thin), chain, torch.float32), plain)
    exact.head.eval()  # nine maps and their shifted sum
    close(run(lambda leaf: exact.head(exact.expand(leaf)), exact, torch.float64), plain)


@pytest.mark.parametrize("frozen", [True, False], ids=["batch norm frozen", "batch norm of the batch"])
def test_training_mode_has_the_gradients_of_a_plain_network(frozen, make_network):
    """A whole network in training mode answers, learns and keeps statistics like one that is computed plainly."""
    network = make_network(stages=2, **SMALL).train()
    with torch.no_grad():  # dead channels would hide what is wrong with them
        for name, value in network.named_parameters():
            if name.endswith("bias"):
                value.add_(torch.randn(value.shape), alpha=0.1)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d) and frozen:
            module.eval()
    exact = deepcopy(network).double()
    frame = torch.rand(3, 1, 14, 19)
    last = network.decompose(frame)[-1]
    if frozen:
        weights = dict(exact.named_parameters()) | dict(exact.named_buffers())
        _, T, _, D = plain_rpcanet.decompose(weights, exact.config, frame.double())[-1]
    else:
        for module in exact.modules():  # the path that is not thin
            if hasattr(module, "_thin"):
                module.forward = lambda x, chain=module: chain.head(chain.expand(chain.layers(x)))
        wanted = exact.decompose(frame.double())[-1]
        T, D = wanted.target, wanted.frame
    results = []
    for of, (t, d) in ((network, (last.target, last.frame)), (exact, (T, D))):
        (t.square().mean() + d.square().mean()).backward()
        results.append([t.detach(), d.detach(), *(p.grad for p in of.parameters()), *of.buffers()])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine.double(), theirs.double(), rtol=1e-3, atol=1e-5)
