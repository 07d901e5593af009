"""A training step of S-Seg: beside transformers' MaskFormer, and what the paper's run would take.

    python tests/benchmarks/model_step.py [--repeats 5]
    python tests/benchmarks/model_step.py --alone --device cuda --batch 512 --precision bf16 \
        --compile --peak-tflops 989

Swin-S, 64 queries, 6 decoder layers, 224 pixels, label maps of 8 regions. The first table is of
the image half and the mask losses of all layers, forward and backward, without what has no
counterpart over there (texts, contrastive loss). Both sides have the same drop-path and dropout,
shift windows in the last stage too, compute the losses in fp32, and supervise 6 layers.

transformers (5.23) refuses its auxiliary loss unless it returns hidden states, and supervises then
a seventh state, the queries before the first layer, which we leave out for it. Its losses are its
own; they compare masks at the size of the labels, so it runs twice: with labels on our mask grid,
the same work as ours, and at the size of the image, as its image processor makes them.

The sides take turns and medians count. A busy machine is kinder to no side, but look at the
seconds of the CPU too, best with OMP_NUM_THREADS=1. The last line of the table is what matching
and mask losses take of our step: their forward and backward, down to the logits.

The second table is the whole step with texts, contrastive loss and AdamW. FLOPs are counted as 2
per multiplication; utilisation is their share of --peak-tflops.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import DetrConfig, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

from sseg_core.config import BackboneConfig, DecoderConfig, LossConfig, ModelConfig
from sseg_core.losses.criterion import count_masks, criterion, mask_losses, masks_per_rank
from sseg_core.models.build import build_model
from sseg_core.structures import MaskOutput, SegmenterOutput

SIZE, GRID, QUERIES, MASKS, TOKENS = 224, 56, 64, 8, 16
PAPER_IMAGES = 26e6 * 30
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
# Windows are shifted in the last stage too, as transformers does: the same work.
CONFIG = ModelConfig(
    backbone=BackboneConfig(options={"always_partition": True}),
    decoder=DecoderConfig(num_queries=QUERIES),
)

Key = TypeVar("Key")
Step = Callable[[], Iterator[None]]
"""A step that stops after each of its parts: forward, losses, backward, or all in one."""


def ours(images: Tensor, label_maps: Tensor, dtype: torch.dtype) -> Step:
    """Return the step of S-Seg's image half."""
    model = build_model(CONFIG).to(images.device)

    def step() -> Iterator[None]:
        with _autocast(images.device, dtype):
            masks = model.encode_images(images)
        yield
        loss = _mask_loss(masks, label_maps)
        yield
        loss.backward()
        yield
        model.zero_grad()

    return step


def losses_alone(images: Tensor, label_maps: Tensor, dtype: torch.dtype) -> Step:
    """Return the part of our step that is matching and mask losses, forward and backward."""
    model = build_model(CONFIG).to(images.device)
    with torch.no_grad(), _autocast(images.device, dtype):
        masks = model.encode_images(images)
    layers = [masks.mask_logits, *masks.auxiliary_mask_logits]
    last, *others = (logits.detach().clone().requires_grad_() for logits in layers)
    leaves = MaskOutput(last, masks.mask_features, tuple(others), masks.stride)

    def step() -> Iterator[None]:
        yield
        loss = _mask_loss(leaves, label_maps)
        yield
        torch.autograd.grad(loss, [last, *others])
        yield

    return step


def theirs(images: Tensor, label_maps: Tensor, dtype: torch.dtype, label_size: int) -> Step:
    """Return the step of transformers' MaskFormer with its own loss."""
    backbone = SwinConfig(
        image_size=SIZE,
        depths=[2, 2, 18, 2],
        embed_dim=96,
        num_heads=[3, 6, 12, 24],
        window_size=7,
        drop_path_rate=0.1,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    rate = CONFIG.decoder.dropout
    decoder = DetrConfig(
        num_queries=QUERIES, dropout=rate, attention_dropout=rate, activation_dropout=rate
    )
    config = MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, use_auxiliary_loss=True
    )
    model = MaskFormerForInstanceSegmentation(config).to(images.device).train()
    stride = SIZE // label_size
    labels = label_maps[:, stride // 2 :: stride, stride // 2 :: stride]
    ids = torch.arange(MASKS, device=images.device)[:, None, None]
    present = [(label == ids).flatten(1).any(1) for label in labels]
    masks = [(label == ids).float()[here] for label, here in zip(labels, present, strict=True)]
    classes = [torch.zeros(len(part), dtype=torch.int64, device=ids.device) for part in masks]

    def step() -> Iterator[None]:
        with _autocast(images.device, dtype):
            output = model.model(images, output_hidden_states=True)
            states = output.transformer_decoder_hidden_states
            output.transformer_decoder_hidden_states = states[1:]
            of_classes, of_masks, auxiliary = model.get_logits(output)
        yield
        # Their matcher hands costs to NumPy, which knows no bf16.
        auxiliary = [{name: x.float() for name, x in layer.items()} for layer in auxiliary]
        terms = model.get_loss_dict(of_masks.float(), of_classes.float(), masks, classes, auxiliary)
        loss = model.get_loss(terms)
        yield
        loss.backward()
        yield
        model.zero_grad()

    return step


def whole(images: Tensor, label_maps: Tensor, dtype: torch.dtype, *, compiled: bool) -> Step:
    """Return the whole training step of S-Seg, with the optimiser."""
    model = build_model(CONFIG).to(images.device)
    forward: Callable[[Tensor, Tensor], SegmenterOutput] = model
    if compiled:
        forward = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), fused=images.is_cuda)
    token_ids = torch.randint(1, 49000, (len(images), TOKENS), device=images.device)

    def step() -> Iterator[None]:  # in one part: to stop in between would make a GPU wait
        with _autocast(images.device, dtype):
            output = forward(images, token_ids)
        criterion(output, label_maps, MASKS, LossConfig()).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield

    return step


def compare(images: Tensor, label_maps: Tensor, precisions: list[str], repeats: int) -> None:
    """Print the sides beside each other, and what our losses take."""
    steps: dict[tuple[str, str], Step] = {}
    for precision in precisions:
        inputs = (images, label_maps, DTYPES[precision])
        steps["sseg", precision] = ours(*inputs)
        steps[f"transformers, labels {GRID} px", precision] = theirs(*inputs, GRID)
        steps[f"transformers, labels {SIZE} px", precision] = theirs(*inputs, SIZE)
        steps["matching and losses of sseg", precision] = losses_alone(*inputs)
    seconds = measure(steps, images.device, repeats)
    head = ("forward", "losses", "backward", "sum", "CPU", "images/s", "of ours", "CPU of ours")
    print(f"{'seconds, medians':36}" + "".join(f"{name:>12}" for name in head))
    for (name, precision), times in seconds.items():
        base = seconds["sseg", precision]
        ratios = (len(images) / times[3], times[3] / base[3], times[4] / base[4])
        print(f"{name + ' ' + precision:36}" + "".join(f"{x:12.3f}" for x in (*times, *ratios)))
    if len(precisions) > 1:
        half, full = seconds["sseg", "bf16"], seconds[f"transformers, labels {GRID} px", "fp32"]
        print(
            f"sseg bf16 against transformers fp32, labels {GRID} px: {full[3] / half[3]:.2f} times"
        )


def project(images: Tensor, label_maps: Tensor, precision: str, args: argparse.Namespace) -> None:
    """Print the rate of the whole step, its use of the device, and the time of the paper's run."""
    device = images.device
    few = slice(0, min(2, len(images)))
    with FlopCounterMode(display=False) as counter:
        _run(whole(images[few], label_maps[few], DTYPES[precision], compiled=False), device)
    flops = counter.get_total_flops() / len(images[few])
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    step = whole(images, label_maps, DTYPES[precision], compiled=args.compile)
    _, total, _ = measure({precision: step}, device, args.repeats)[precision]
    rate = len(images) / total
    print(f"whole step, {precision}{', compiled' if args.compile else ''}: {rate:.2f} images/s")
    print(f"  {flops / 1e9:.1f} GFLOP an image, {flops * rate / 1e12:.3f} TFLOP/s", end="")
    print(f", utilisation {flops * rate / 1e12 / args.peak_tflops:.1%}" if args.peak_tflops else "")
    if device.type == "cuda":
        print(f"  peak memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB")
    print(f"  26M images, 30 times: {PAPER_IMAGES / rate / 3600:,.0f} hours on one such device")


def measure(
    steps: dict[Key, Step], device: torch.device, repeats: int
) -> dict[Key, tuple[float, ...]]:
    """Return the median seconds of each part, of their sum, and of the CPU."""
    times: dict[Key, list[tuple[float, ...]]] = {key: [] for key in steps}
    for repeat in range(repeats + 1):
        for key, step in steps.items():
            parts = _run(step, device)
            if repeat > 0:  # the first one warms up
                times[key].append(parts)
    return {
        key: tuple(statistics.median(column) for column in zip(*rows, strict=True))
        for key, rows in times.items()
    }


def _run(step: Step, device: torch.device) -> tuple[float, ...]:
    on_cpu = time.process_time()
    moments = [_now(device)] + [_now(device) for _ in step()]
    parts = [end - start for start, end in itertools.pairwise(moments)]
    return (*parts, sum(parts), time.process_time() - on_cpu)


def _mask_loss(masks: MaskOutput, label_maps: Tensor) -> Tensor:
    num_masks = masks_per_rank(count_masks(label_maps, (GRID, GRID), MASKS))
    return mask_losses(masks, label_maps, MASKS, LossConfig(), num_masks).total


def _autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == torch.bfloat16)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _regions(batch: int, device: torch.device) -> Tensor:
    """Return [B, H, W] uint8 label maps: each pixel has the number of the nearest random point."""
    axis = torch.linspace(0, 1, SIZE, device=device)
    pixels = torch.cartesian_prod(axis, axis).expand(batch, -1, -1)
    points = torch.rand(batch, MASKS, 2, device=device)
    return torch.cdist(pixels, points).argmin(-1).view(batch, SIZE, SIZE).to(torch.uint8)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--precision", choices=list(DTYPES), help="default: both")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without transformers")
    parser.add_argument("--compile", action="store_true", help="torch.compile the whole step")
    parser.add_argument("--peak-tflops", type=float, help="of the device in this precision")
    args = parser.parse_args()
    torch.manual_seed(0)
    device = torch.device(args.device)
    images = torch.rand(args.batch, 3, SIZE, SIZE, device=device)
    label_maps = _regions(args.batch, device)
    precisions = [args.precision] if args.precision else list(DTYPES)
    print(
        f"Swin-S, N={QUERIES}, batch {args.batch}, {SIZE} px, {device}, torch {torch.__version__}"
    )
    if not args.alone:
        compare(images, label_maps, precisions, args.repeats)
    for precision in precisions:
        project(images, label_maps, precision, args)


if __name__ == "__main__":
    main()
