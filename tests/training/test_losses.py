"""The parts of the loss on tensors whose values are worked out by hand."""

import math

import pytest
import torch

from training.losses import fidelity_loss, loss_of, needs_frame, pixel_loss, soft_iou_loss, target_loss
from training.recipe import Recipe

SURE = 40.0  # sigmoid(40) is 1 to float32


def image(*pixels):
    return torch.tensor(pixels).reshape(1, 1, 1, -1)


IOU = [
    ("everything right", image(SURE, SURE, -SURE, -SURE), image(1.0, 1, 0, 0), 1 - 3 / 3),
    ("one of two found", image(SURE, -SURE, -SURE, -SURE), image(1.0, 1, 0, 0), 1 - 2 / 3),
    ("one right and one false", image(SURE, -SURE, SURE, -SURE), image(1.0, 1, 0, 0), 1 - 2 / 4),
    ("nothing there and nothing found", image(-SURE, -SURE), image(0.0, 0), 0.0),
    ("nothing there and all found", image(SURE, SURE, SURE), image(0.0, 0, 0), 1 - 1 / 4),
    ("undecided", image(0.0, 0.0), image(1.0, 0), 1 - 1.5 / 2.5),
]


@pytest.mark.parametrize(("why", "logits", "masks", "want"), IOU, ids=[c[0] for c in IOU])
def test_soft_iou(why, logits, masks, want):
    """1 - (overlap + 1) / (union + 1)."""
    assert soft_iou_loss(logits, masks).item() == pytest.approx(want, abs=1e-6)


def test_soft_iou_is_a_mean_over_images():
    """A large target in one image does not drown a small one in another."""
    logits = torch.stack([image(SURE, SURE)[0], image(-SURE, -SURE)[0]])
    masks = torch.stack([image(1.0, 1)[0], image(1.0, 0)[0]])
    assert soft_iou_loss(logits, masks).item() == pytest.approx((0 + (1 - 1 / 2)) / 2)


def test_cross_entropy_does_not_tire():
    """A confident false target costs its whole logit, however many there are."""
    logits, masks = torch.full((1, 1, 8, 8), 20.0), torch.zeros(1, 1, 8, 8)
    assert pixel_loss(logits, masks).item() == pytest.approx(20.0)
    assert pixel_loss(-logits, masks).item() == pytest.approx(0.0, abs=1e-6)
    assert pixel_loss(0 * logits, masks).item() == pytest.approx(math.log(2))


def test_fidelity_is_the_mean_squared_error():
    """D^K against D."""
    assert fidelity_loss(image(0.5, 0.0), image(0.0, 0.0)).item() == pytest.approx(0.125)


def test_the_target_pixels_of_a_batch_are_shared():
    """The mean of two processes' losses, each divided by the mean count of targets, is the loss of the batch."""
    logits, masks = image(2.0, -1.0, 0.5, 3.0), image(1.0, 0, 1, 1)
    whole = target_loss(logits, masks)
    count = masks.sum() / 2
    parts = [target_loss(logits[..., part], masks[..., part], count) for part in (slice(0, 2), slice(2, 4))]
    assert torch.stack(parts).mean().item() == pytest.approx(whole.item())
    assert target_loss(logits, 0 * masks).item() == 0


def test_every_stage_and_the_frame_count(make_network):
    """Earlier stages' targets count as deep supervision says; D every third step, three times as heavy."""
    said = {"fidelity_every": 3, "deep_supervision": 0.5}
    recipe = Recipe.model_validate({"name": "r", "data": [{"set": "dots"}], "steps": 9, **said})
    assert [needs_frame(recipe, step) for step in range(4)] == [True, False, False, True]
    network = make_network(stages=3, channels=16, bottleneck=2)
    frames = torch.rand(2, 1, 16, 16)
    masks = (frames > 0.9).float()
    with torch.no_grad():
        whole, targets_alone = (network.decompose(frames, whole) for whole in (True, False))
        first, second, last = (soft_iou_loss(stage.target, masks) for stage in whole)
        targets = (last + 0.5 * (first + second) / 2).item()
        fidelity = fidelity_loss(whole[-1].frame, frames).item()
        assert loss_of(targets_alone, frames, masks, recipe).item() == pytest.approx(targets)
        assert loss_of(whole, frames, masks, recipe).item() == pytest.approx(targets + 0.3 * fidelity)
