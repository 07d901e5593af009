"""Images per second of our loader, beside the same pipeline written plainly with webdataset.

    python tests/benchmarks/loader.py PHOTOS [ROUNDS]
    python tests/benchmarks/loader.py --soak SAMPLES

PHOTOS is a folder of photos; they become JPEGs of 500 x 375 with label maps of 28 x 28 in temporary
shards. The plain side shuffles with webdataset, decodes with Pillow, crops and flips each sample
with torchvision and collates as the DataLoader does; words and tokens are made by our code on both
sides. Two workers, crops of 224, batches of 64. The sides take turns, and the median of the rounds
counts; where other programs use the cores, the processor time per image says more. Ours crops in
the main process, or, for a GPU, not on the CPU at all: both are shown.

The soak streams tiny images and prints the memory of the main process and of the workers.
"""

from __future__ import annotations

import io
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset as wds
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

from sseg_core.config import LoaderConfig
from sseg_core.data.augment import Augmentation
from sseg_core.data.loader import make_loader
from sseg_core.data.order import ShardSet
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.data.words import nouns_and_verbs
from sseg_core.pseudomask.label_png import encode_label_map
from sseg_core.structures import Batch
from sseg_core.text.tokenizer import Tokenizer

BATCH, WORKERS, SHARDS = 64, 2, 8
WARM_BATCHES, TIMED_BATCHES = 6, 24  # the first ones of a turn wait ready in queues
POINTS = 10  # of the soak
CAPTIONS = ("A brown dog runs across the wet grass.", "Two people sit on a bench by the sea.")
TOKENIZER = Tokenizer()
CROP = v2.Compose([v2.RandomResizedCrop(224, scale=(0.08, 1.0)), v2.RandomHorizontalFlip()])


def main() -> None:
    """Measure what the arguments ask for."""
    with tempfile.TemporaryDirectory() as folder:
        if sys.argv[1] == "--soak":
            soak(Path(folder), int(sys.argv[2]))
        else:
            rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
            race(Path(folder), photos(Path(sys.argv[1])), rounds)


def photos(folder: Path) -> list[bytes]:
    """Return all photos of a folder as JPEGs of 500 x 375."""
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in {".jpg", ".png"})
    return [encoded(Image.open(path).convert("RGB").resize((500, 375))) for path in files]


def encoded(image: Image.Image) -> bytes:
    """Return an image as a JPEG of quality 92."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()


def write_shards(folder: Path, images: list[bytes]) -> tuple[ShardSet, list[str]]:
    """Write the images with masks and captions: as our shards, and as shards that hold all."""
    rng = np.random.default_rng(0)
    ours, plain = [], []
    for shard in range(SHARDS):
        pairs, masks, together = [], [], []
        for number in range(shard, len(images), SHARDS):
            sample = pack_sample(Sample(f"s{number}", images[number], CAPTIONS), "jpg")
            blocks = rng.integers(0, 8, (7, 7), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
            mask = (f"s{number}.mask.png", encode_label_map(blocks))
            pairs += sample
            masks.append(mask)
            together += [*sample, mask]
        paths = [folder / f"{kind}{shard}.tar" for kind in ("pairs", "masks", "plain")]
        write_tar(paths[0], pairs)
        write_tar(paths[1], masks, compress=True)
        write_tar(paths[2], together)
        ours.append((str(paths[0]), str(paths[1])))
        plain.append(str(paths[2]))
    return ShardSet(tuple(ours), 1.0, "benchmark"), plain


def our_batches(shards: ShardSet, config: LoaderConfig, batch_size: int = BATCH) -> Iterator[Batch]:
    """Return our stream, not augmented."""
    return make_loader(
        [shards], config, batch_size=batch_size, seed=0, start_batch=0, tokenizer=TOKENIZER
    )


def plain_batches(shards: list[str]) -> Iterator[Any]:
    """Return webdataset's endless stream of augmented batches."""
    samples = wds.WebDataset(shards, resampled=True, shardshuffle=False, nodesplitter=None)
    mapped = samples.shuffle(LoaderConfig().shuffle_buffer).map(plain_sample)
    return iter(DataLoader(mapped, batch_size=BATCH, num_workers=WORKERS))


def plain_sample(sample: dict[str, Any]) -> tuple[Any, ...]:
    """Decode and augment one sample."""
    image = Image.open(io.BytesIO(sample["jpg"])).convert("RGB")
    mask = Image.open(io.BytesIO(sample["mask.png"])).resize(image.size, Image.Resampling.NEAREST)
    label_map = tv_tensors.Mask(torch.from_numpy(np.array(mask)))
    cropped, label_map = CROP(image, label_map)
    text = nouns_and_verbs(random.choice(json.loads(sample["json"])["captions"]))
    token_ids = torch.from_numpy(TOKENIZER([text])[0])
    return v2.functional.pil_to_tensor(cropped).float() / 255, label_map, token_ids


def race(folder: Path, images: list[bytes], rounds: int) -> None:
    """Print images/s of each side and the ratios."""
    shards, plain_shards = write_shards(folder, images)
    config = LoaderConfig(workers=WORKERS)
    augment = Augmentation(config)
    plain, ours, ours_augmented = (
        plain_batches(plain_shards),
        our_batches(shards, config),
        map(augment, our_batches(shards, config)),
    )
    sides: dict[str, Iterator[Any]] = {
        "plain webdataset, augmented": plain,
        "sseg, augmented on the CPU": ours_augmented,
        "sseg, for a GPU to augment": ours,
    }
    turns: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
            turns[name].append(timed(sides[name]))
    print(f"{len(images)} photos of 500 x 375, {WORKERS} workers, {os.cpu_count()} cores")
    print(f"{'':30}{'images/s':>10}{'ratio':>8}{'CPU ms':>10}{'ratio':>8}   (CPU of all processes)")
    for name, values in turns.items():
        rates, costs = (statistics.median(each) for each in zip(*values, strict=True))
        pairs = list(zip(values, turns["plain webdataset, augmented"], strict=True))
        faster = statistics.median(mine[0] / base[0] for mine, base in pairs)
        cheaper = statistics.median(base[1] / mine[1] for mine, base in pairs)
        print(f"{name:30}{rates:10.0f}{faster:7.2f}x{costs:10.2f}{cheaper:7.2f}x")


def timed(batches: Iterator[Any]) -> tuple[float, float]:
    """Return the images per second of the next batches, and the CPU milliseconds per image."""
    for _ in islice(batches, WARM_BATCHES):
        pass
    begin, used = time.perf_counter(), cpu_seconds()
    for _ in islice(batches, TIMED_BATCHES):
        pass
    images, elapsed = BATCH * TIMED_BATCHES, time.perf_counter() - begin
    return images / elapsed, 1000 * (cpu_seconds() - used) / images


def cpu_seconds() -> float:
    """Return the processor time of this process and its workers, of which two wait at a time."""
    fields = (
        Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        for process in ("self", *workers())
    )
    ticks = sum(int(field[11]) + int(field[12]) for field in fields)  # user and system time
    return ticks / os.sysconf("SC_CLK_TCK")


def workers() -> list[str]:
    """Return the ids of the loader workers."""
    children = Path("/proc/self/task").glob("*/children")
    return sorted(pid for path in children for pid in path.read_text().split())


def soak(folder: Path, samples: int) -> None:
    """Print the memory of all processes at ten points of a long stream."""
    rng = np.random.default_rng(0)
    tiny = [rng.integers(0, 255, (32, 32, 3), dtype=np.uint8) for _ in range(20_000)]
    shards, _ = write_shards(folder, [encoded(Image.fromarray(pixels)) for pixels in tiny])
    config = LoaderConfig(load_size=32, crop_size=32, workers=WORKERS)
    augment, batch_size = Augmentation(config), 1024
    batches = our_batches(shards, config, batch_size)
    begin = time.perf_counter()
    print(f"{'samples':>10}{'main':>8}  workers, MB resident")
    for number in range(1, -(-samples // batch_size) + 1):
        augment(next(batches))
        if number * POINTS * batch_size // samples > (number - 1) * POINTS * batch_size // samples:
            print(
                f"{number * batch_size:10}{resident_mb('self'):8.0f}  "
                f"{' '.join(f'{resident_mb(pid):.0f}' for pid in workers())}",
                flush=True,
            )
    print(f"{samples / (time.perf_counter() - begin):.0f} samples/s")


def resident_mb(process: str) -> float:
    """Return the resident memory of a process."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


if __name__ == "__main__":
    main()
