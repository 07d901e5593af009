"""Side by side: the bare forward of a ViT, and the whole stage of `sseg pseudomask`.

Run: python tests/benchmarks/pseudomask_stage.py PHOTOS [--images 1000 10000]

PHOTOS is a folder of JPEG files, repeated until there are enough. The ViT-S/8 has random weights:
its speed does not depend on them. The stage reads tar files, decodes, runs the same network in the
same batches, threads and precision, clusters and writes; the bare forward is timed before and
after it, on decoded images, so that a busy machine shows. Peak memory is that of the process: it
must not grow with the number of images.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import timm
import torch
from safetensors.torch import save_file

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import PseudomaskConfig
from sseg_core.data.images import decode_image
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.device import pick_device
from sseg_core.pseudomask.features import build_features
from sseg_core.stages.pseudomask import run

SHARD = 500


def main() -> None:
    """Print a row per number of images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--bare-images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--model", default="vit_small_patch8_224")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    photos = sorted(options.photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        weights = folder / "vit.safetensors"
        save_file(timm.create_model(options.model, num_classes=0).state_dict(), weights)
        config = PseudomaskConfig(
            features=f"timm:{options.model}",
            weights=str(weights),
            batch_size=options.batch_size,
            precision=options.precision,
        )
        bare = bare_forward(config, photos, options.bare_images, options.device)
        bare()  # warm
        print(f"{torch.get_num_threads()} threads, batch {config.batch_size}, {config.precision}")
        print("  images  bare/s before, after  stage/s  ratio  peak MiB  bytes/mask")
        for count in options.images:
            pairs = write_pairs(folder / str(count), photos, count)
            settings = config.model_copy(update={"pairs": pairs})
            before = bare()
            stats = run(
                settings, ArtifactStore(folder / "store"), device=options.device
            ).manifest.stats
            after = bare()
            rate = stats["images_per_second"]
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            print(
                f"{count:8d}  {before:13.1f}, {after:5.1f}  {rate:7.1f}  "
                f"{2 * rate / (before + after):5.2f}  {peak:8d}  {stats['bytes_per_mask']:10.1f}"
            )


def bare_forward(
    config: PseudomaskConfig, photos: list[Path], count: int, device_name: str
) -> Callable[[], float]:
    """Return a function that measures images per second of the network alone."""
    device = pick_device(device_name)
    features = build_features(config, device)
    size = (config.image_size, config.image_size)
    decoded = [
        decode_image(photo.read_bytes(), max_pixels=10**9, size=size)
        for photo in islice(cycle(photos), count)
    ]
    images = torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2).float().div(255).to(device)

    def measure() -> float:
        begin = time.perf_counter()
        for batch in images.split(config.batch_size):
            tokens = features(batch)
        tokens.sum().item()  # waits for the device
        return count / (time.perf_counter() - begin)

    return measure


def write_pairs(folder: Path, photos: list[Path], count: int) -> str:
    """Write `count` captioned images into shards; return their pattern."""
    folder.mkdir()
    files = islice(cycle(photos), count)
    numbers = range(0, count, SHARD)
    for shard, _ in enumerate(numbers):
        samples = (
            Sample(f"{shard:05d}-{i:04d}", file.read_bytes(), ("a photo",))
            for i, file in enumerate(islice(files, SHARD))
        )
        members = (member for sample in samples for member in pack_sample(sample, "jpg"))
        write_tar(folder / f"{shard:05d}.tar", members)
    return str(folder / f"{{00000..{len(numbers) - 1:05d}}}.tar")


if __name__ == "__main__":
    main()
