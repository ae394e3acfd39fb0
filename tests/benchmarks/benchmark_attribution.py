"""What the attribution of all units costs beside a bare forward pass."""

from __future__ import annotations

import networks
import numpy as np
import torch
from timing import Row, alternate

import unitprobe as up
from unitprobe.ablation.attribution import run_attribution
from unitprobe.ablation.classifier import as_classifier
from unitprobe.ablation.forward_passes import load
from unitprobe.ablation.settings import Mode, SweepOptions
from unitprobe.ablation.targets import Targets
from unitprobe.layers import evaluating, list_layers, select_layers
from unitprobe.models import Network


def run(quick: bool) -> list[Row]:
    """Return the cost of attributing all units of all activations, in forward passes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = []
    if quick:
        network = Network(networks.ResNet20().eval())
        return [_row("ResNet-20, 32 px, batch 32", network, 32, 32, 32, "zero", device, 3)]
    import timm

    network = Network(timm.create_model("resnet18", pretrained=False).eval())
    count, batch = (256, 64) if device.type == "cuda" else (32, 16)
    for mode in ("zero", "mean", "resample"):
        what = f"ResNet-18, 224 px, batch {batch}, mode {mode}"
        rows.append(_row(what, network, 224, count, batch, mode, device, 5))
    return rows


def _row(
    what: str,
    network: Network,
    pixels: int,
    count: int,
    batch: int,
    mode: Mode,
    device: torch.device,
    repeats: int,
) -> Row:
    network.module.to(device)
    images = np.random.default_rng(0).normal(size=(count, 3, pixels, pixels)).astype(np.float32)
    names = [f"class {i}" for i in range(10)]
    outputs = 10 if pixels == 32 else 1000
    network.class_names = names + [f"other {i}" for i in range(outputs - 10)]
    stimuli = up.Stimuli(images, np.arange(count) % 10, class_names=names, name="noise")
    listed = list_layers(network, example=torch.from_numpy(images[:1]).to(device))
    layers = select_layers(network.module, listed, "activations")
    swept = [Targets(layer, tuple((unit,) for unit in range(layer.units or 0))) for layer in layers]
    two = torch.from_numpy(images[:2]).to(device)
    options = SweepOptions(mode=mode, batch_size=batch, progress=False)

    def attribute() -> None:
        run_attribution(as_classifier(network, two), stimuli, swept, options)

    def forward() -> None:
        with evaluating(network.module), torch.no_grad():
            for some in load(network, stimuli, options):
                network.module(some.images)

    units = sum(map(len, swept))
    row = alternate(
        f"attribution of {units} units against a forward pass, {what}, {device.type}",
        attribute,
        forward,
        repeats=repeats,
    )
    return {**row, "units": units}
