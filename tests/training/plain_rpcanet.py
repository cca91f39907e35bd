"""RPCANet+ a second time, written plainly from its facts with functions alone, to hold training.model against."""

import torch
import torch.nn.functional as F


def convolve(weights, name, x):
    kernel = weights[f"{name}.weight"]
    return F.conv2d(x, kernel, weights[f"{name}.bias"], padding=kernel.shape[-1] // 2)


def normalise(weights, name, x):
    mean, var, gain, bias = (
        weights[f"{name}.{part}"].reshape(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / torch.sqrt(var + 1e-5) * gain + bias


def attend_and_project(weights, name, x):
    pooled = x.mean(dim=(2, 3), keepdim=True)
    squeezed = torch.relu(convolve(weights, f"{name}.excitation.0", pooled))
    scale = torch.sigmoid(convolve(weights, f"{name}.excitation.2", squeezed))
    return convolve(weights, f"{name}.project", x * scale)


def background_of(weights, stage, x, layers):
    """W: convolution, batch norm, ReLU, `layers` + 1 times, then b -> c, attention, c -> 1."""
    for layer in range(layers + 1):
        x = convolve(weights, f"{stage}.background.layers.{3 * layer}", x)
        x = torch.relu(normalise(weights, f"{stage}.background.layers.{3 * layer + 1}", x))
    x = convolve(weights, f"{stage}.background.expand", x)
    return attend_and_project(weights, f"{stage}.background.head", x)


def chain_of(weights, stage, part, x, layers):
    """H and F: convolution and ReLU, `layers` + 1 times, then b -> c, attention, c -> 1."""
    for layer in range(layers + 1):
        x = torch.relu(convolve(weights, f"{stage}.{part}.layers.{2 * layer}", x))
    x = convolve(weights, f"{stage}.{part}.expand", x)
    return attend_and_project(weights, f"{stage}.{part}.head", x)


def merge_of(weights, stage, x, layers):
    """M: convolution, batch norm, ReLU, `layers` + 1 times, attention, c -> 1, no skip."""
    for layer in range(layers + 1):
        x = convolve(weights, f"{stage}.merge.{3 * layer}", x)
        x = torch.relu(normalise(weights, f"{stage}.merge.{3 * layer + 1}", x))
    return attend_and_project(weights, f"{stage}.merge.{3 * layers + 3}", x)


def decompose(weights, config, frame):
    """Return [(B, T, N, D)] of every stage, all [batch, 1, h, w]."""
    D, T, N = frame, torch.zeros_like(frame), torch.zeros_like(frame)
    stages = []
    for k in range(config.stages):
        stage = f"stages.{k}"
        if not config.carry_noise or not config.rebuild:
            N = torch.zeros_like(frame)
        x = D - T - N
        B = x + background_of(weights, stage, x, config.background_layers)
        x = T + D - B - N
        T = x - weights[f"{stage}.epsilon"] * chain_of(weights, stage, "target", x, config.target_layers)
        if not config.rebuild:
            stages.append((B, T, None, None))
            continue
        x = N + D - B - T
        N = x - weights[f"{stage}.sigma"] * chain_of(weights, stage, "noise", x, config.noise_layers)
        D = merge_of(weights, stage, B + T + N, config.merge_layers)
        stages.append((B, T, N, D))
    return stages
