"""Batches for a student: a function of the seed and their number, however they are divided."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sseg_core.config import CropConfig
from sseg_core.data.delivery import Delivery
from sseg_core.data.images import ImageError, RGBImage, read_image
from sseg_core.data.label_shards import LabelEntry, LabelShardWriter, read_label_index
from sseg_core.data.labelled_loader import LabelledImages, make_labelled_loader
from sseg_core.errors import DataError
from sseg_core.structures import BACKGROUND, VOID, LabelledBatch

CONFIG = CropConfig(short_side=32, crop_size=32, workers=0, min_confidence=0.5)
SIZES = ((24, 30), (40, 28), (32, 32), (17, 50))


def show(key: str, broken: frozenset[str] = frozenset()) -> RGBImage:
    """The image of a key: its number is the grey value, but for a brighter quarter."""
    if key in broken:
        raise ImageError("corrupt", "is corrupt", key)
    number = int(key)
    image = np.full((*SIZES[number % 4], 3), number, np.uint8)
    image[: image.shape[0] // 2, : image.shape[1] // 2] += 100
    return image


def labelled(
    folder: Path, count: int, broken: Sequence[int] = (), bad_labels: Sequence[int] = ()
) -> LabelledImages:
    """Labels say the same as the image: class `number`, background in the brighter quarter."""
    paths = []
    for shard in range(0, count, 10):
        path = folder / f"labels-{shard // 10:05d}.tar"
        paths.append(path.with_suffix(".jsonl"))
        with LabelShardWriter(path) as writer:
            for number in range(shard, min(count, shard + 10)):
                shape = show(str(number)).shape[:2] if number not in bad_labels else (5, 5)
                label_map = np.full(shape, number, np.int16)
                label_map[: shape[0] // 2, : shape[1] // 2] = BACKGROUND
                confidence = np.full(shape, 0.9, np.float32)
                confidence[-shape[0] // 4 :] = 0.3
                writer.write(str(number), label_map, confidence)
    image = partial(show, broken=frozenset(map(str, broken)))
    return LabelledImages(read_label_index(paths), image)


def batches(
    source: LabelledImages, start: int = 0, config: CropConfig = CONFIG, **options: int
) -> Iterator[LabelledBatch]:
    values = {"batch_size": 4, "seed": 0, **options}
    return make_labelled_loader(source, config, start_batch=start, **values)


def contents(items: Iterator[LabelledBatch], number: int) -> list[tuple[object, ...]]:
    return [
        (b.keys, b.images.tolist(), b.label_maps.tolist(), dict(b.skipped))
        for b in islice(items, number)
    ]


def test_a_batch_holds_images_with_their_labels(tmp_path: Path) -> None:
    """Types and shapes as promised, colours telling labels; unsure pixels and padding are void."""
    source = labelled(tmp_path, 23)
    for batch in islice(batches(source), 8):
        assert (batch.images.shape, batch.images.dtype) == ((4, 3, 32, 32), torch.uint8)
        assert (batch.label_maps.shape, batch.label_maps.dtype) == ((4, 32, 32), torch.int16)
        for key, image, labels in zip(batch.keys, batch.images, batch.label_maps, strict=True):
            number = int(key)
            assert set(labels.unique().tolist()) <= {number, BACKGROUND, VOID}
            assert (image[0][labels == number].float() - number).abs().median() == 0
            bright = image[0][labels == BACKGROUND].float()
            assert not len(bright) or (bright - number - 100).abs().median() == 0


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_a_resumed_stream_equals_the_uninterrupted_one(
    tmp_path: Path, workers: int, balance: float
) -> None:
    """Any number of workers, skips included; from any batch on."""
    source = labelled(tmp_path, 11, broken=[3, 5], bad_labels=[7])
    options = {"max_skip_rate": 1.0, "balance": balance}
    whole = contents(batches(source, 0, CONFIG.model_copy(update=options)), 12)
    assert {reason for *_, skipped in whole for reason in skipped} == {"corrupt", "bad label"}
    config = CONFIG.model_copy(update={"workers": workers, **options})
    for start in (0, 1, 5):
        assert contents(batches(source, start, config), 12 - start) == whole[start:]


@pytest.mark.parametrize("world_size", [2, 3])
@pytest.mark.parametrize("balance", [0.0, 1.0])
def test_ranks_divide_the_batch_of_one_process(
    tmp_path: Path, world_size: int, balance: float
) -> None:
    """Images, crops and substitutes: all as one process with larger batches has them."""
    source = labelled(tmp_path, 13, broken=[2, 9], bad_labels=[4])
    config = CONFIG.model_copy(update={"balance": balance})
    one = list(islice(batches(source, 0, config, batch_size=4 * world_size), 6))
    ranks = [
        list(islice(batches(source, 0, config, rank=rank, world_size=world_size), 6))
        for rank in range(world_size)
    ]
    for batch, parts in zip(one, zip(*ranks, strict=True), strict=True):
        assert batch.keys == sum((part.keys for part in parts), ())
        assert torch.equal(batch.images, torch.cat([part.images for part in parts]))
        assert torch.equal(batch.label_maps, torch.cat([part.label_maps for part in parts]))
        skipped = [sum(part.skipped.values()) for part in parts]
        assert sum(batch.skipped.values()) == sum(skipped)


def test_the_seed_and_the_place_decide_on_crops(tmp_path: Path) -> None:
    """Another seed, another row; an image has another crop each time it comes."""
    source = labelled(tmp_path, 4)
    first, second = islice(batches(source), 2)
    assert set(first.keys) == set(second.keys) == set("0123")
    again = dict(zip(second.keys, second.images, strict=True))
    assert any(
        not torch.equal(image, again[key])
        for key, image in zip(first.keys, first.images, strict=True)
    )
    assert contents(batches(source), 3) != contents(batches(source, seed=1), 3)


def test_unusable_images_never_come(tmp_path: Path) -> None:
    """Each is counted whenever it would; every batch is full."""
    source = labelled(tmp_path, 10, broken=[1], bad_labels=[8])
    items = list(islice(batches(source), 25))  # ten passes
    keys = [key for batch in items for key in batch.keys]
    assert len(keys) == 100
    assert set(keys) == set(map(str, range(10))) - {"1", "8"}
    corrupt = sum(batch.skipped.get("corrupt", 0) for batch in items)
    assert 10 <= corrupt < 25  # once per pass, and where it was drawn as a substitute


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_unusable_images_end_the_run(tmp_path: Path, workers: int) -> None:
    """With the reasons and what to do; the sentence crosses the border of a process."""
    source = labelled(tmp_path, 10, broken=range(6), bad_labels=[6])
    config = CONFIG.model_copy(update={"workers": workers, "max_skip_rate": 0.5})
    with pytest.raises(
        DataError, match=r"more than max_skip_rate=0.5 allows \(corrupt: "
    ) as caught:
        list(islice(batches(source, 0, config), 400))
    assert "loader.max_skip_rate" in caught.value.hint
    allowed = CONFIG.model_copy(update={"workers": workers, "max_skip_rate": 0.9})
    assert len(list(islice(batches(source, 0, allowed), 100))) == 100


def test_without_a_usable_image_the_run_ends(tmp_path: Path) -> None:
    """Also where any share of unusable ones is allowed; an empty set is refused at once."""
    source = labelled(tmp_path, 3, broken=range(3))
    config = CONFIG.model_copy(update={"max_skip_rate": 1.0})
    with pytest.raises(DataError, match=r"200 images in a row are unusable \(corrupt: 200\)"):
        next(batches(source, 0, config))
    with pytest.raises(DataError, match="no labelled images"):
        batches(LabelledImages((), show))


def test_labels_of_another_size_name_the_image(tmp_path: Path) -> None:
    """An image that was replaced since it was labelled."""
    source = labelled(tmp_path, 3, bad_labels=range(3))
    config = CONFIG.model_copy(update={"max_skip_rate": 1.0})
    with pytest.raises(DataError, match=r"bad label: 200"):
        next(batches(source, 0, config))


@dataclass(frozen=True)
class Photos:
    """Real photos by the name of their file."""

    folder: Path

    def __call__(self, key: str) -> RGBImage:
        return read_image(self.folder / key, 10**8)


@pytest.mark.parametrize("workers", [0, 2])
def test_real_photos_with_their_masks(tmp_path: Path, real_data: Path, workers: int) -> None:
    """VOC's masks as labels: shown classes are those of the masks, at the default sizes."""
    root = real_data / "voc-mini" / "VOC2012"
    masks = sorted((root / "SegmentationClass").glob("*.png"))[:12]
    with LabelShardWriter(tmp_path / "a.tar") as writer:
        for mask in masks:
            values = np.array(Image.open(mask)).astype(np.int16)
            label_map = np.where(values == 255, VOID, values - 1).astype(np.int16)
            writer.write(f"{mask.stem}.jpg", label_map, None)
    entries: list[LabelEntry] = read_label_index([tmp_path / "a.jsonl"])
    source = LabelledImages(entries, Photos(root / "JPEGImages"))
    config = CropConfig(workers=workers, balance=0.5)
    by_key = {entry.key: entry for entry in entries}
    for batch in islice(batches(source, 0, config), 3):
        assert batch.images.shape == (4, 3, 512, 512)
        assert not batch.skipped
        for key, labels in zip(batch.keys, batch.label_maps, strict=True):
            assert set(labels.unique().tolist()) <= {*by_key[key].pixels, VOID}


class Pinned(torch.Tensor):
    """What pin_memory returns here, where there may be no GPU."""


def test_all_tensors_of_a_batch_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a GPU, images and label maps are pinned; an error stays what it is."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.as_subclass(Pinned))
    batch = LabelledBatch(torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4), ("a", "b"), {"corrupt": 1})
    pinned = Delivery(batch).pin_memory().content
    assert isinstance(pinned, LabelledBatch)
    assert isinstance(pinned.images, Pinned)
    assert isinstance(pinned.label_maps, Pinned)
    assert (pinned.keys, pinned.skipped) == (batch.keys, batch.skipped)


def test_the_loader_draws_from_no_generator_of_the_run(tmp_path: Path) -> None:
    """A resumed run restores torch's generator, and loads other numbers of batches ahead."""
    source = labelled(tmp_path, 5)
    before = torch.get_rng_state()
    list(islice(batches(source, 0, CONFIG.model_copy(update={"workers": 1})), 3))
    assert torch.equal(torch.get_rng_state(), before)


PARENT = """
import multiprocessing, sys
from itertools import islice
from pathlib import Path

import numpy as np

from sseg_core.config import CropConfig
from sseg_core.data.label_shards import read_label_index
from sseg_core.data.labelled_loader import LabelledImages, make_labelled_loader


def image(key):
    return np.zeros((24, 30, 3), np.uint8)


source = LabelledImages(read_label_index([Path(sys.argv[1])]), image)
config = CropConfig(short_side=32, crop_size=32, workers=2)
batches = make_labelled_loader(source, config, batch_size=2, seed=0, start_batch=0)
next(batches)
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
sys.stdin.readline()
"""


BLIND_WATCH = """
from torch.utils.data._utils.worker import ManagerWatchdog

ManagerWatchdog.is_alive = lambda self: True
"""
"""As torch's watch is in a worker that began when its parent had been killed already."""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("before", ["", BLIND_WATCH], ids=["", "killed early"])
def test_workers_die_with_their_parent(tmp_path: Path, before: str) -> None:
    """Nothing of a killed run lives on."""
    with LabelShardWriter(tmp_path / "a.tar") as writer:
        writer.write("k", np.zeros((24, 30), np.int16), None)
    command = [sys.executable, "-c", before + PARENT, str(tmp_path / "a.jsonl")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        workers = [Path("/proc", pid) for pid in process.stdout.readline().decode().split()]
        assert len(workers) == 2
        assert all(worker.exists() for worker in workers)
    finally:
        process.kill()
        process.wait()
    end = time.monotonic() + 60
    while any(_is_alive(worker) for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.1)


def _is_alive(process: Path) -> bool:
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
