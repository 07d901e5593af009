"""Forward and backward of our image half beside transformers' MaskFormer, at the paper's sizes.

    python tests/benchmarks/model_step.py [REPEATS]

Swin-S, 64 queries, 6 decoder layers, batch 4, 224 pixels, fp32. Both sides compute the mask
logits after every decoder layer; the loss is the mean of their squares. The two take turns, and
the median of the repeats counts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

from sseg_core.config import BackboneConfig, DecoderConfig, ModelConfig
from sseg_core.models.sseg import SSeg

BATCH, SIZE, QUERIES = 4, 224, 64


def ours(images: Tensor) -> Callable[[], Tensor]:
    """Return the step of S-Seg's image half."""
    # Windows are shifted in the last stage too, as transformers does: the same work.
    backbone = BackboneConfig(options={"always_partition": True})
    decoder = DecoderConfig(num_queries=QUERIES, dropout=0)
    model = SSeg(ModelConfig(backbone=backbone, decoder=decoder), nn.Identity()).to(images.device)

    def step() -> Tensor:
        output = model.encode_images(images)
        return torch.stack([output.mask_logits, *output.auxiliary_mask_logits]).square().mean()

    return step


def theirs(images: Tensor) -> Callable[[], Tensor]:
    """Return the step of transformers' MaskFormer, without its class predictions."""
    backbone = SwinConfig(
        image_size=SIZE,
        depths=[2, 2, 18, 2],
        embed_dim=96,
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.1,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    decoder = DetrConfig(num_queries=QUERIES, dropout=0.0)
    config = MaskFormerConfig(backbone_config=backbone, decoder_config=decoder)
    model = MaskFormerForInstanceSegmentation(config).to(images.device).train()

    def step() -> Tensor:
        output = model.model(images, output_hidden_states=True)
        states = torch.stack(output.transformer_decoder_hidden_states[1:])
        pixels = output.pixel_decoder_last_hidden_state
        masks = torch.einsum("lbqd,bdhw->lbqhw", model.mask_embedder(states), pixels)
        return masks.square().mean()

    return step


def main() -> None:
    """Print images per second of both, forward alone and with the backward pass."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images = torch.rand(BATCH, 3, SIZE, SIZE, device=device)
    steps = {"sseg": ours(images), "transformers": theirs(images)}
    forward: dict[str, list[float]] = {name: [] for name in steps}
    both: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            start = _now(device)
            loss = step()
            middle = _now(device)
            loss.backward()
            end = _now(device)
            if repeat > 0:  # the first one warms up
                forward[name].append(middle - start)
                both[name].append(end - start)
    print(f"Swin-S, N={QUERIES}, batch {BATCH}, {SIZE} px, {device}, torch {torch.__version__}")
    print(f"{'':14}{'forward':>12}{'+ backward':>12}   images/s, median of {repeats}")
    for name in steps:
        rates = [BATCH / statistics.median(times[name]) for times in (forward, both)]
        print(f"{name:14}{rates[0]:12.2f}{rates[1]:12.2f}")


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
