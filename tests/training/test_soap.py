"""SOAP against Adam: the same where there is no basis to find, and free of the one given where there is."""

import torch

from training.soap import WIDEST, Soap


def test_sides_too_wide_for_a_basis_leave_adam():
    """After the first gradient, which only says where a basis would lie, the steps are those of PyTorch's Adam."""
    torch.manual_seed(0)
    start = torch.randn(WIDEST + 1, WIDEST + 1)
    mine, its = (torch.nn.Parameter(start.clone()) for _ in range(2))
    soap, adam = Soap([mine], 0.01), torch.optim.Adam([its], 0.01, betas=(0.95, 0.97))
    for step in range(25):
        gradient = torch.randn_like(start)
        mine.grad, its.grad = gradient.clone(), gradient
        soap.step()
        if step:
            adam.step()
    assert torch.allclose(mine, its, atol=1e-5)
    assert not torch.allclose(mine, start, atol=0.01)


def moves(make, gradients):
    """What an optimizer makes of gradients, step by step."""
    at = torch.nn.Parameter(torch.zeros_like(gradients[0]))
    optimizer = make([at])
    places = []
    for gradient in gradients:
        at.grad = gradient.clone()
        optimizer.step()
        places.append(at.detach().clone())
    return torch.stack(places)


def test_gradients_that_are_turned_give_the_same_steps_turned():
    """The basis is found, not given, and kept up with: 40 steps, which find it anew four times; Adam's differ."""
    torch.manual_seed(1)
    stretch = torch.logspace(0, 2, 6, dtype=torch.float64)
    gradients = torch.randn(40, 6, 6, dtype=torch.float64) * stretch[:, None]
    left, right = (torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64))[0] for _ in range(2))
    turned = left @ gradients @ right
    found = moves(lambda parts: Soap(parts, 0.01), turned)
    assert torch.allclose(found, left @ moves(lambda parts: Soap(parts, 0.01), gradients) @ right, atol=1e-6)
    assert found[-1].abs().max() > 0.01
    adam = moves(lambda parts: torch.optim.Adam(parts, 0.01), turned)
    assert not torch.allclose(
        adam, left @ moves(lambda parts: torch.optim.Adam(parts, 0.01), gradients) @ right, atol=0.01
    )


def test_what_has_no_gradient_rests():
    part = torch.nn.Parameter(torch.ones(4, 4))
    Soap([part], 0.1).step()
    assert torch.equal(part, torch.ones(4, 4))
