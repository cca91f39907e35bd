"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., arXiv:2409.11321), for small networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

WIDEST = 96  # a wider side of a gradient keeps the basis that it has
REFRESH = 10  # steps between two bases
SIDES = 0.95  # how long gradients shape the bases


class Soap(torch.optim.Optimizer):
    """Adam on gradients that are turned into the basis in which they have no correlation.

    A gradient is a matrix here, of a kernel's outputs by all the rest; a vector is a column. Libraries turn every
    dimension of a kernel by itself, and vectors not at all.

    Args:
        parameters: of the network; those without a gradient rest.
        rate: the learning rate; a group's ``lr`` may change from step to step.
        betas: decay of the mean gradient and of its square.
        eps: keeps the division finite.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        rate: float,
        betas: tuple[float, float] = (0.95, 0.97),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, {"lr": rate, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; its first gradient only says where its basis lies."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                gradient = parameter.grad.reshape(len(parameter), -1)
                state = self.state[parameter]
                if not state:
                    state.update(_begin(gradient))
                    continue
                mean_decay, square_decay = group["betas"]
                direction = _move(state, gradient, mean_decay, square_decay, group["eps"])
                parameter.sub_(group["lr"] * direction.reshape_as(parameter))


def _begin(gradient: Tensor) -> dict[str, Any]:
    state: dict[str, Any] = {"moves": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
    for side, product in _products(gradient).items():
        spread = product * (1 - SIDES)
        eye = torch.eye(len(spread), dtype=spread.dtype, device=spread.device)
        state |= {side: spread, f"{side}_basis": torch.linalg.eigh(spread + 1e-20 * eye)[1]}
    return state


def _products(gradient: Tensor) -> dict[str, Tensor]:
    """Return the products of a gradient with itself over each side that gets a basis."""
    rows, columns = gradient.shape
    sides = {}
    if 1 < rows <= WIDEST:
        sides["left"] = gradient @ gradient.T
    if 1 < columns <= WIDEST:
        sides["right"] = gradient.T @ gradient
    return sides


def _move(state: dict[str, Any], gradient: Tensor, mean_decay: float, square_decay: float, eps: float) -> Tensor:
    """Return the direction of a step, at rate 1, and bring a parameter's state up to it."""
    products = _products(gradient)
    for side, product in products.items():
        state[side].lerp_(product, 1 - SIDES)
    state["moves"] += 1
    state["mean"].lerp_(gradient, 1 - mean_decay)
    state["square"].lerp_(_turned(state, gradient).square(), 1 - square_decay)
    size = (state["square"] / (1 - square_decay ** state["moves"])).sqrt() + eps
    turned: Tensor = _turned(state, state["mean"]) / (1 - mean_decay ** state["moves"]) / size
    if "left" in state:
        turned = state["left_basis"] @ turned
    if "right" in state:
        turned = turned @ state["right_basis"].T
    if state["moves"] % REFRESH == 0:
        for dimension, side in enumerate(("left", "right")):
            if side in products:
                _refresh(state, side, dimension)
    return turned


def _turned(state: dict[str, Any], gradient: Tensor) -> Tensor:
    """Return a gradient in the bases of a state."""
    for side in ("left", "right"):
        if side in state:
            basis: Tensor = state[f"{side}_basis"]
            gradient = basis.T @ gradient if side == "left" else gradient @ basis
    return gradient


def _refresh(state: dict[str, Any], side: str, dimension: int) -> None:
    """Bring a side's basis closer to the eigenvectors: one power iteration, the largest eigenvalue first."""
    image = state[side] @ state[f"{side}_basis"]
    order = (state[f"{side}_basis"] * image).sum(0).argsort(descending=True)
    state["square"] = state["square"].index_select(dimension, order)
    state[f"{side}_basis"] = torch.linalg.qr(image[:, order])[0]
