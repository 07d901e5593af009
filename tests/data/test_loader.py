"""The batches are a function of the seed and their number, whoever loads them."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sseg_core.config import LoaderConfig
from sseg_core.data import loader
from sseg_core.data.delivery import Delivery
from sseg_core.data.images import encode_jpeg
from sseg_core.data.loader import make_loader
from sseg_core.data.order import ShardSet
from sseg_core.data.shards import Sample, pack_sample, write_tar
from sseg_core.errors import DataError
from sseg_core.structures import Batch

CONFIG = LoaderConfig(load_size=32, caption_words="all", shuffle_buffer=7, workers=0)


def spell(texts: Sequence[str]) -> np.ndarray:
    """A stand-in tokenizer: the numbers in each text."""
    return np.array([[int(word) for word in text.split() if word.isdigit()] for text in texts])


def lengths(texts: Sequence[str]) -> np.ndarray:
    """A stand-in tokenizer: how many words each text has."""
    return np.array([[len(text.split())] for text in texts])


def mask_png(number: int) -> bytes:
    """Two segments, left and right; their ids tell which sample they belong to."""
    ids = np.tile(np.array([number, number + 100], np.uint8), (4, 1))
    image = Image.fromarray(ids.repeat(2, axis=1)).convert("P")
    image.putdata(ids.repeat(2, axis=1).ravel().tolist())
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def sample(number: int) -> Sample:
    image = np.full((20, 30, 3), number * 2, np.uint8)
    captions = tuple(f"number {number} caption {c}" for c in range(3))
    return Sample(f"s{number}", encode_jpeg(image, 95), captions)


def write_shards(
    folder: Path,
    lengths: Sequence[int],
    *,
    without_mask: Sequence[int] = (),
    corrupt: Sequence[int] = (),
) -> list[tuple[str, str]]:
    shards, number = [], 0
    for index, length in enumerate(lengths):
        numbers = range(number, number + length)
        number += length
        pairs, masks = [], []
        for i in numbers:
            item = sample(i)
            if i in corrupt:
                item = Sample(item.key, item.image[:200], item.captions)
            pairs += pack_sample(item, "jpg")
            if i not in without_mask:
                masks.append((f"s{i}.mask.png", mask_png(i)))
        paths = (folder / f"pairs{index}.tar", folder / f"masks{index}.tar")
        write_tar(paths[0], pairs)
        write_tar(paths[1], masks)
        shards.append((str(paths[0]), str(paths[1])))
    return shards


def one_set(shards: Sequence[tuple[str, str | None]], weight: float = 1) -> ShardSet:
    return ShardSet(tuple(shards), weight, "things:v1")


def batches(
    shards: Sequence[tuple[str, str | None]],
    start: int,
    config: LoaderConfig = CONFIG,
    *,
    seed: int = 0,
    batch_size: int = 4,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[Batch]:
    return make_loader(
        [one_set(shards)],
        config,
        batch_size=batch_size,
        seed=seed,
        start_batch=start,
        tokenizer=spell,
        rank=rank,
        world_size=world_size,
    )


def contents(items: Iterator[Batch], number: int) -> list[tuple[object, ...]]:
    return [
        (
            b.keys,
            b.images.tolist(),
            None if b.label_maps is None else b.label_maps.tolist(),
            b.token_ids.tolist(),
            dict(b.skipped),
        )
        for b in islice(items, number)
    ]


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three batches, so that a few batches cross their borders."""
    monkeypatch.setattr(loader, "_CHUNK_SAMPLES", 12)


@pytest.mark.parametrize(("workers", "world_size"), [(0, 1), (1, 1), (3, 1), (2, 2)])
def test_a_resumed_stream_equals_the_uninterrupted_one(
    tmp_path: Path, workers: int, world_size: int
) -> None:
    """Starting at batch n gives the batches of a start at 0 with n dropped, skips included."""
    shards = write_shards(tmp_path, [9, 9, 5], without_mask=[2, 14], corrupt=[4, 17])
    shards.insert(1, (str(tmp_path / "gone.tar"), str(tmp_path / "gone.tar")))
    config = CONFIG.model_copy(update={"workers": workers})
    rank = world_size - 1
    whole = contents(batches(shards, 0, config, rank=rank, world_size=world_size), 14)
    reasons = {reason for *_, skipped in whole for reason in skipped}
    assert reasons == {"no mask", "truncated", "unreadable shard"}
    for start in (1, 2, 7):
        resumed = batches(shards, start, config, rank=rank, world_size=world_size)
        assert contents(resumed, 14 - start) == whole[start:]


@pytest.mark.parametrize("lengths", [[48, 48], [8] * 12])
def test_ranks_and_workers_read_different_samples(tmp_path: Path, lengths: list[int]) -> None:
    """In a pass of 96 samples, 2 ranks of 2 workers read 2 chunks of 12 each: none twice."""
    shards = write_shards(tmp_path, lengths)
    config = CONFIG.model_copy(update={"workers": 2})
    seen = [
        [
            key
            for b in islice(batches(shards, 0, config, rank=rank, world_size=2), 12)
            for key in b.keys
        ]
        for rank in range(2)
    ]
    assert [len(set(keys)) for keys in seen] == [48, 48]
    assert not set(seen[0]) & set(seen[1])


def test_the_same_sample_has_another_caption_on_each_rank(tmp_path: Path) -> None:
    """One shard of 2 samples for 3 ranks: captions are drawn by each rank for itself."""
    shards = write_shards(tmp_path, [2])
    texts = [
        [
            tuple(row)
            for b in islice(batches(shards, 0, rank=rank, world_size=3), 6)
            for row in b.token_ids.tolist()
        ]
        for rank in range(3)
    ]
    assert texts[0] != texts[1] != texts[2] != texts[0]


def test_sets_are_mixed_by_weight(tmp_path: Path) -> None:
    """Of 12 samples in a chunk, 3 are of a set with a third of the other's weight."""
    first, *others = write_shards(tmp_path, [5, 5, 5])
    mixed = make_loader(
        [one_set([first], 0.5), one_set(others, 1.5)],
        CONFIG,
        batch_size=4,
        seed=0,
        start_batch=0,
        tokenizer=spell,
    )
    counts = Counter(int(key[1:]) < 5 for b in islice(mixed, 30) for key in b.keys)
    assert counts == {True: 30, False: 90}


@pytest.mark.parametrize("workers", [0, 2])
def test_without_masks_a_batch_has_no_label_maps(tmp_path: Path, workers: int) -> None:
    """Where masks are made online, samples need none; all else is as ever."""
    shards = [(pairs, None) for pairs, _ in write_shards(tmp_path, [9, 9], corrupt=[3])]
    config = CONFIG.model_copy(update={"workers": workers})
    items = list(islice(batches(shards, 0, config), 9))
    assert all(batch.label_maps is None for batch in items)
    assert {key for batch in items for key in batch.keys} == {f"s{i}" for i in range(18)} - {"s3"}
    assert contents(batches(shards, 4, config), 5) == contents(batches(shards, 0, config), 9)[4:]


def test_a_lost_shard_is_no_unusable_sample(tmp_path: Path) -> None:
    """Half of the shards are gone: each time that is counted, and max_skip_rate=0 holds."""
    shards = write_shards(tmp_path, [10] * 6)
    for pairs, masks in shards[:3]:
        Path(pairs).unlink()
        Path(masks).unlink()
    config = CONFIG.model_copy(update={"max_skip_rate": 0.0})
    skipped: Counter[str] = Counter()
    for batch in islice(batches(shards, 0, config), 60):
        skipped.update(batch.skipped)
    assert set(skipped) == {"unreadable shard"}
    assert skipped["unreadable shard"] > 10


def test_a_batch_of_bad_samples_takes_another_one(tmp_path: Path) -> None:
    """Small batches may hold corrupt samples alone; they are filled, after a resume likewise."""
    shards = write_shards(tmp_path, [12], corrupt=[0, 5, 7, 8])
    items = list(islice(batches(shards, 0, batch_size=1), 36))
    assert sum(batch.skipped.get("truncated", 0) for batch in items) == 12
    assert not {"s0", "s5", "s7", "s8"} & {key for batch in items for key in batch.keys}
    resumed = batches(shards, 17, batch_size=1)
    assert [b.keys for b in islice(resumed, 19)] == [batch.keys for batch in items[17:]]


class Pinned(torch.Tensor):
    """What pin_memory returns here, where there may be no GPU."""


def test_all_tensors_of_a_batch_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a GPU, images, label maps and ids are pinned, an error stays what it is."""
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.as_subclass(Pinned))
    ids = torch.ones(2, 8, dtype=torch.int64)
    batch = Batch(torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4), ids, ("a", "b"), {"corrupt": 1})
    pinned = Delivery(batch).pin_memory().content
    assert isinstance(pinned, Batch)
    tensors = (pinned.images, pinned.label_maps, pinned.token_ids)
    assert all(isinstance(tensor, Pinned) for tensor in tensors)
    assert (pinned.keys, pinned.skipped) == (batch.keys, batch.skipped)
    error = Delivery(DataError("no"))
    assert error.pin_memory() is error


STREAMER = """
import multiprocessing, os, signal, sys
from itertools import islice

import numpy as np

from sseg_core.config import LoaderConfig
from sseg_core.data.loader import make_loader
from sseg_core.data.order import ShardSet


def ids(texts):
    return np.ones((len(texts), 2), np.int64)


noted = []
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    signal.signal(number, lambda number, frame: noted.append(number))
config = LoaderConfig(load_size=32, workers=2)
shards = ShardSet(((sys.argv[1], sys.argv[2]),), 1, "x")
batches = make_loader([shards], config, batch_size=4, seed=0, start_batch=0, tokenizer=ids)
next(batches)
print("ready", flush=True)
sys.stdin.readline()
print(sum(len(batch.keys) for batch in islice(batches, 20)), len(noted))
worker = multiprocessing.active_children()[0]
worker.terminate()
try:
    worker.join(20)
except RuntimeError:  # torch's own handler may tell first that a worker has ended
    worker.join(20)
print(worker.exitcode, flush=True)
os._exit(0)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="signals are told apart on Linux only")
def test_workers_leave_signals_to_their_parent(tmp_path: Path) -> None:
    """What is sent to all processes of a run ends no worker; what their parent sends does."""
    process = subprocess.Popen(
        [sys.executable, "-c", STREAMER, *write_shards(tmp_path, [9])[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            os.killpg(process.pid, number)
            time.sleep(0.3)  # one that comes while another waits may be merged with it
        output, errors = process.communicate("\n", timeout=100)
        assert output.split() == ["80", "3", str(-signal.SIGTERM)], errors
    finally:
        process.kill()
