"""The batches are a function of the seed and their number, whoever loads them."""

from __future__ import annotations

import io
import pickle
import subprocess
import sys
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
from sseg_core.data.images import encode_jpeg
from sseg_core.data.batches import BatchMaker
from sseg_core.data.loader import BatchStream, Delivery, make_loader
from sseg_core.data.order import SampleOrder, ShardSet
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
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    small, large = (
        write_shards(folder, [count]) for folder, count in zip(folders, (5, 20), strict=True)
    )
    mixed = make_loader(
        [one_set(small, 0.5), one_set([large[0]], 1.5)],
        CONFIG,
        batch_size=4,
        seed=0,
        start_batch=0,
        tokenizer=spell,
    )
    counts = Counter(int(key[1:]) < 5 for b in islice(mixed, 30) for key in b.keys)
    # The larger set holds numbers below 5 as well: a quarter of what it gives.
    assert counts == {True: 30 + 90 // 4, False: 90 - 90 // 4} or abs(counts[True] - 52) < 8


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
    """Small batches may hold corrupt samples alone; they are filled, and the same after a resume."""
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


SIGNALLED = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
from itertools import islice
from stream import stream

noted = []
signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
signal.signal(signal.SIGUSR1, lambda number, frame: noted.append(number))
batches = stream()
next(batches)
for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
    try:
        os.killpg(0, number)
        time.sleep(0.2)
    except KeyboardInterrupt:
        noted.append(signal.SIGINT)
print(sum(len(batch.keys) for batch in islice(batches, 20)), len(noted))
begin = time.monotonic()
import multiprocessing
worker = multiprocessing.active_children()[0]
worker.terminate()
worker.join(20)
print(worker.exitcode)
os._exit(0)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="signals are told apart on Linux only")
def test_workers_leave_signals_to_their_parent(tmp_path: Path) -> None:
    """What is sent to all processes of a run ends no worker; what their parent sends does."""
    shards = write_shards(tmp_path, [9])
    (tmp_path / "stream.py").write_text(
        "import numpy as np\n"
        "from sseg_core.config import LoaderConfig\n"
        "from sseg_core.data.loader import make_loader\n"
        "from sseg_core.data.order import ShardSet\n"
        "def ids(texts): return np.ones((len(texts), 2), np.int64)\n"
        "def stream():\n"
        f"    sets = [ShardSet({tuple(shards)!r}, 1, 'x')]\n"
        "    config = LoaderConfig(load_size=32, workers=2)\n"
        "    options = dict(batch_size=4, seed=0, start_batch=0, tokenizer=ids)\n"
        "    return make_loader(sets, config, **options)\n",
        encoding="utf-8",
    )
    result = subprocess.run(
        [sys.executable, "-c", SIGNALLED.format(folder=str(tmp_path))],
        capture_output=True,
        text=True,
        timeout=120,
        start_new_session=True,
        check=True,
    )
    assert result.stdout.split() == ["80", "3", "0"], result.stderr


def test_the_main_process_loads_like_one_worker(tmp_path: Path) -> None:
    """No worker and one worker give the same batches."""
    shards = write_shards(tmp_path, [9, 9])
    one = CONFIG.model_copy(update={"workers": 1})
    assert contents(batches(shards, 0), 6) == contents(batches(shards, 0, one), 6)


def test_the_stream_survives_pickling(tmp_path: Path) -> None:
    """A worker that is spawned gets the stream as a pickle, and yields the same from it."""
    order = SampleOrder((one_set(write_shards(tmp_path, [9])),), (9,), 0, 12, 7)
    maker = BatchMaker(CONFIG, 4, spell)
    stream = BatchStream(order, maker, start_batch=0, rank=0, world_size=1)
    copy = pickle.loads(pickle.dumps(stream))
    first, second = ((delivery.content for delivery in each) for each in (copy, stream))
    assert contents(first, 3) == contents(second, 3)


def test_another_seed_gives_another_order(tmp_path: Path) -> None:
    """The seed decides the order."""
    shards = write_shards(tmp_path, [9, 9])
    first, second = (next(batches(shards, 0, seed=seed)).keys for seed in (0, 1))
    assert first != second


def test_the_order_differs_from_pass_to_pass(tmp_path: Path) -> None:
    """A pass over the data is no repetition of the one before, in order or captions."""
    shards = write_shards(tmp_path, [12])
    items = batches(shards, 0)
    passes = [list(islice(items, 3)) for _ in range(2)]
    keys = [[key for batch in a_pass for key in batch.keys] for a_pass in passes]
    assert keys[0] != keys[1]
    assert sorted(keys[0]) == sorted(keys[1])
    captions = [
        {tuple(row) for batch in a_pass for row in batch.token_ids.tolist()} for a_pass in passes
    ]
    assert captions[0] != captions[1]


@pytest.mark.parametrize("workers", [1, 3])
def test_every_sample_comes_equally_often(tmp_path: Path, workers: int) -> None:
    """Over k passes each sample comes k times, though chunks end in the middle of shards."""
    shards = write_shards(tmp_path, [8, 8, 8])
    config = CONFIG.model_copy(update={"workers": workers})
    # 3 workers take a chunk of 12 samples each in a round of 9 batches: 36 samples; 2 rounds of
    # them, as 18 batches of one worker, are 72 samples: 3 passes over 24.
    counts = Counter(key for b in islice(batches(shards, 0, config), 18) for key in b.keys)
    assert counts == {f"s{i}": 3 for i in range(24)}


def test_more_workers_than_shards(tmp_path: Path) -> None:
    """One small shard feeds any number of workers."""
    shards = write_shards(tmp_path, [3])
    config = CONFIG.model_copy(update={"workers": 2})
    seen = Counter(key for b in islice(batches(shards, 0, config), 12) for key in b.keys)
    assert seen == {"s0": 16, "s1": 16, "s2": 16}


def test_image_mask_and_caption_belong_together(tmp_path: Path) -> None:
    """Each place of a batch holds one sample's image, label map, caption and key."""
    shards = write_shards(tmp_path, [9, 9], without_mask=[3, 11])
    for batch in islice(batches(shards, 0), 8):
        assert batch.images.shape == (4, 3, 32, 32)
        assert batch.images.dtype == torch.uint8
        assert batch.label_maps.shape == (4, 32, 32)
        assert batch.label_maps.dtype == torch.uint8
        assert batch.token_ids.dtype == torch.int64
        for image, label_map, ids, key in zip(
            batch.images, batch.label_maps, batch.token_ids, batch.keys, strict=True
        ):
            number = int(key[1:])
            assert abs(float(image.float().mean()) - 2 * number) < 2
            assert (label_map[:, :16] == number).all()
            assert (label_map[:, 16:] == number + 100).all()
            assert ids[0] == number
            assert number not in {3, 11}


def test_dropped_words_reach_the_tokenizer_and_repeat_exactly(tmp_path: Path) -> None:
    """With word_dropout some texts lose their number; the same batch is the same again."""
    shards = write_shards(tmp_path, [40])
    config = CONFIG.model_copy(update={"word_dropout": 0.5})
    first, second = (
        next(
            make_loader(
                [one_set(shards)], config, batch_size=16, seed=3, start_batch=1, tokenizer=lengths
            )
        )
        for _ in range(2)
    )
    assert torch.equal(first.token_ids, second.token_ids)
    assert first.token_ids.min() < 4 <= first.token_ids.max() + 1


def test_loading_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    """A resumed run restores torch's generator, then opens the loader: no draw may be lost."""
    shards = write_shards(tmp_path, [12])
    state = torch.get_rng_state()
    next(
        make_loader([one_set(shards)], CONFIG, batch_size=4, seed=0, start_batch=2, tokenizer=spell)
    )
    assert torch.equal(torch.get_rng_state(), state)


def test_only_nouns_and_verbs_reach_the_tokenizer(tmp_path: Path) -> None:
    """With caption_words=nouns_verbs the tokenizer sees nouns and verbs alone."""
    texts: list[str] = []

    def record(batch: Sequence[str]) -> np.ndarray:
        texts.extend(batch)
        return np.zeros((len(batch), 1), np.int64)

    item = Sample("s0", sample(0).image, ("The very happy dog runs on the green grass.",))
    write_tar(tmp_path / "p.tar", pack_sample(item, "jpg"))
    write_tar(tmp_path / "m.tar", [("s0.mask.png", mask_png(0))])
    config = CONFIG.model_copy(update={"caption_words": "nouns_verbs"})
    shards = [(str(tmp_path / "p.tar"), str(tmp_path / "m.tar"))]
    sets = [one_set(shards)]
    next(make_loader(sets, config, batch_size=2, seed=0, start_batch=0, tokenizer=record))
    assert texts == ["dog runs grass"] * 2


def test_bad_samples_are_replaced_and_counted(tmp_path: Path) -> None:
    """A corrupt image gives its place to another sample of the batch, and is counted."""
    shards = write_shards(tmp_path, [12], corrupt=[5], without_mask=[7])
    items = list(islice(batches(shards, 0), 11))
    skipped: Counter[str] = Counter()
    for batch in items:
        assert len(batch.keys) == 4
        assert not {"s5", "s7"} & set(batch.keys)
        skipped.update(batch.skipped)
    # Chunks of 12 samples end within the fifth pass over 11, after its first sample.
    assert skipped["truncated"] == 4
    assert set(skipped) == {"truncated", "no mask"}


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_samples_stop_with_the_reason(tmp_path: Path, workers: int) -> None:
    """Above max_skip_rate the stream ends in one sentence that names the commonest reason."""
    shards = write_shards(tmp_path, [40], corrupt=range(0, 40, 2))
    config = CONFIG.model_copy(update={"max_skip_rate": 0.3, "workers": workers})
    with pytest.raises(DataError, match=r"samples are unusable.*truncated: ") as caught:
        list(islice(batches(shards, 0, config, batch_size=20), 60))
    assert "Traceback" not in str(caught.value)
    assert "max_skip_rate" in caught.value.hint


@pytest.mark.parametrize("workers", [0, 1])
def test_an_empty_stream_is_an_error(tmp_path: Path, workers: int) -> None:
    """Shards without a usable sample end in an error, not in waiting."""
    config = CONFIG.model_copy(update={"workers": workers})
    shards = write_shards(tmp_path, [5], without_mask=range(5))
    with pytest.raises(DataError, match=r"None of the 1 shards .*no mask: "):
        next(batches(shards, 0, config))
    with pytest.raises(DataError, match=r"12 samples in a row are unusable \(truncated: 12\)"):
        next(batches(write_shards(tmp_path, [4], corrupt=range(4)), 0, config))
    with pytest.raises(DataError, match="no shards"):
        batches([], 0, config)
    missing = str(tmp_path / "none.tar")
    with pytest.raises(DataError, match=r"None of the 1 shards of things:v1 .*none\.tar"):
        next(batches([(missing, missing)], 0, config))


def test_masks_that_are_no_palette_images_are_counted(tmp_path: Path) -> None:
    """A mask that is no PNG, or one in colour, counts as a bad mask."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "PNG")
    write_tar(tmp_path / "p.tar", [m for i in range(4) for m in pack_sample(sample(i), "jpg")])
    masks = [mask_png(0), b"nonsense", stream.getvalue(), mask_png(3)[:-30]]
    write_tar(tmp_path / "m.tar", [(f"s{i}.mask.png", mask) for i, mask in enumerate(masks)])
    batch = next(batches([(str(tmp_path / "p.tar"), str(tmp_path / "m.tar"))], 0))
    assert batch.keys == ("s0",) * 4
    assert batch.skipped == {"bad mask": 3}
