"""Shards in, training batches out: endless, shuffled, and exactly resumable.

The order of the samples is fixed by the seed before any is read. The shards, permuted anew in each
pass, form one endless row of samples; it is cut into chunks of about `_CHUNK_SAMPLES`, which the
workers take in turn and shuffle within themselves. So every sample comes about equally often, any
number of workers or shards will do, and a run that resumes reads past less than a chunk, without
decoding it.
"""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from webdataset.filters import shuffle

from sseg_core.config import MAX_PIXELS, LoaderConfig
from sseg_core.data.images import ImageError, RGBImage, decode_image
from sseg_core.data.shards import Sample, read_masks, read_shard_with_masks
from sseg_core.data.words import nouns_and_verbs
from sseg_core.errors import DataError
from sseg_core.structures import Batch

TokenizerCall = Callable[[Sequence[str]], npt.NDArray[np.int64]]
"""Texts in, [B, L] int64 token ids out; it travels to the workers, so it must be picklable."""

_CHUNK_SAMPLES = 16_384  # a resumed run reads fewer than this in vain: 2 to 4 seconds
_JUDGED_AFTER = 200  # samples before the share of unusable ones means something


def make_loader(
    shards: Sequence[tuple[str, str]],
    config: LoaderConfig,
    *,
    batch_size: int,
    seed: int,
    start_batch: int,
    tokenizer: TokenizerCall,
) -> Iterator[Batch]:
    """Return the endless stream of batches number `start_batch`, `start_batch` + 1, ...

    Batch i is a function of the shards, the configuration, the batch size and the seed alone. In
    place of an unusable sample another one of the same batch is repeated, so that the batches keep
    their size and their numbers.

    Args:
        shards: paths of (pairs shard, masks shard).
        config: sizes, caption words, shuffling and workers.
        batch_size: samples per batch.
        seed: of the order and the choice of captions.
        start_batch: where to begin.
        tokenizer: texts to token ids.

    Raises:
        DataError: there is no shard. While iterating: a shard is missing or none holds a usable
            sample, or the share of unusable samples exceeds `config.max_skip_rate`.
    """
    if not shards:
        raise DataError("There are no shards to train on.", "Make masks with: sseg pseudomask")
    paths = tuple((Path(pairs), Path(masks)) for pairs, masks in shards)
    dataset = BatchStream(
        paths,
        config,
        batch_size=batch_size,
        seed=seed,
        start_batch=start_batch,
        tokenizer=tokenizer,
    )
    return _received(
        DataLoader(
            dataset,
            batch_size=None,
            num_workers=config.workers,
            # Of its own: the loader must not draw from the generator that a resumed run restores.
            generator=torch.Generator(),
        )
    )


def _received(loader: DataLoader[Batch | DataError]) -> Iterator[Batch]:
    for item in loader:
        if isinstance(item, DataError):
            raise item
        yield item


@dataclass(frozen=True)
class _Decoded:
    sample: Sample
    image: RGBImage
    label_map: npt.NDArray[np.uint8]


class BatchStream(IterableDataset[Batch | DataError]):
    """One worker's share of the batches: every W-th of W workers.

    An error is yielded, not raised: torch would bury its sentence in a worker's traceback.
    """

    def __init__(
        self,
        shards: tuple[tuple[Path, Path], ...],
        config: LoaderConfig,
        *,
        batch_size: int,
        seed: int,
        start_batch: int,
        tokenizer: TokenizerCall,
    ) -> None:
        self._shards = shards
        self._config = config
        self._batch_size = batch_size
        self._seed = seed
        self._start_batch = start_batch
        self._tokenizer = tokenizer
        self._batches_per_chunk = max(1, _CHUNK_SAMPLES // batch_size)

    def __iter__(self) -> Iterator[Batch | DataError]:
        """Yield the batches of this worker; the DataLoader takes one of each worker in turn."""
        worker = get_worker_info()
        workers = 1 if worker is None else worker.num_workers
        # The first worker is asked first, so after a resume the workers change their parts.
        first = self._start_batch + (0 if worker is None else worker.id)
        try:
            yield from self._batches(first, workers)
        except DataError as error:
            yield error

    def _batches(self, first: int, workers: int) -> Iterator[Batch]:
        usable, skipped = 0, Counter[str]()
        shard_length = self._estimated_shard_length()
        part, done = first % workers, first // workers  # whose part, and how far it is
        for chunk in count(done // self._batches_per_chunk):
            start = chunk * self._batches_per_chunk
            counts: Counter[str] = Counter()
            samples = self._chunk_samples(chunk * workers + part, shard_length, counts)
            for number in range(start, start + self._batches_per_chunk):
                slots = list(islice(samples, self._batch_size))
                if number < done:
                    counts.clear()  # an earlier run reported these
                    continue
                decoded = self._decoded(slots, counts)
                usable += len(decoded)
                skipped.update(counts)
                self._check_skip_rate(usable, skipped)
                rng = _generator(self._seed, "batch", number * workers + part)
                yield self._assembled(decoded, rng, counts)
                counts.clear()

    def _estimated_shard_length(self) -> int:
        """Samples of the first shard; all but the last of an artifact have about as many."""
        return max(1, sum(1 for _ in read_masks(self._shards[0][1])))

    def _chunk_samples(
        self, chunk: int, shard_length: int, counts: Counter[str]
    ) -> Iterator[tuple[Sample, bytes]]:
        """Yield the samples of one chunk, shuffled within each pass over the shards.

        A chunk begins where the one before ends, if all shards have `shard_length` samples; where
        they differ a little, so do the numbers of times that samples come.
        """
        wanted = self._batches_per_chunk * self._batch_size
        shard, offset = divmod(chunk * wanted, shard_length)
        first_pass, shard = divmod(shard, len(self._shards))
        empty_passes = 0
        for a_pass in count(first_pass):
            order = list(self._shards)
            _generator(self._seed, "pass", a_pass).shuffle(order)
            taken = islice(_pass_samples(order[shard:], offset, counts), wanted)
            rng = _generator(self._seed, "chunk", chunk, a_pass)
            buffer, given = self._config.shuffle_buffer, 0
            for item in shuffle(buffer, initial=buffer, rng=rng)(taken):
                given += 1
                yield item
            wanted -= given
            if not wanted:
                return
            # The first pass may begin behind the last sample; two in a row mean there is none.
            empty_passes = 0 if given else empty_passes + 1
            if empty_passes > 1:
                raise DataError(
                    f"None of the {len(self._shards)} shards holds a sample with a mask"
                    f"{_listed(counts)}.",
                    "Make the masks again: sseg pseudomask",
                )
            shard = offset = 0

    def _decoded(
        self, slots: Sequence[tuple[Sample, bytes]], counts: Counter[str]
    ) -> list[_Decoded]:
        """Decode what can be decoded; count the rest by reason."""
        size = self._config.load_size
        decoded = []
        for sample, mask in slots:
            try:
                image = decode_image(sample.image, max_pixels=MAX_PIXELS, size=(size, size))
                decoded.append(_Decoded(sample, image, _decode_mask(mask, size)))
            except ImageError as error:
                counts[error.reason] += 1
        if not decoded:
            raise DataError(
                f"All {len(slots)} samples of a batch are unusable{_listed(counts)}.",
                "Make the pairs and masks again: sseg download, sseg pseudomask",
            )
        return decoded

    def _assembled(
        self, decoded: list[_Decoded], rng: random.Random, counts: Counter[str]
    ) -> Batch:
        """Make a batch, its empty places filled by going through the samples again."""
        filled = [decoded[i % len(decoded)] for i in range(self._batch_size)]
        texts = [rng.choice(item.sample.captions) for item in filled]
        if self._config.caption_words == "nouns_verbs":
            texts = [nouns_and_verbs(text) for text in texts]
        if self._config.word_dropout:
            texts = [_with_fewer_words(text, self._config.word_dropout, rng) for text in texts]
        images = np.stack([item.image for item in filled])
        return Batch(
            images=torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(),
            label_maps=torch.from_numpy(np.stack([item.label_map for item in filled])),
            token_ids=torch.from_numpy(self._tokenizer(texts)),
            keys=tuple(item.sample.key for item in filled),
            skipped=dict(counts),
        )

    def _check_skip_rate(self, usable: int, skipped: Counter[str]) -> None:
        bad = skipped.total()
        limit = self._config.max_skip_rate
        if bad + usable >= _JUDGED_AFTER and bad > limit * (bad + usable):
            raise DataError(
                f"{bad} of {bad + usable} samples are unusable, more than max_skip_rate={limit}"
                f" allows{_listed(skipped)}.",
                "Make the pairs and masks again, or set loader.max_skip_rate higher.",
            )


def _with_fewer_words(text: str, dropout: float, rng: random.Random) -> str:
    """Leave out each word with probability `dropout`, but never all of them."""
    words = text.split()
    kept = [word for word in words if rng.random() >= dropout]
    return " ".join(kept or (words and [rng.choice(words)]))


def _pass_samples(
    shards: Sequence[tuple[Path, Path]], offset: int, counts: Counter[str]
) -> Iterator[tuple[Sample, bytes]]:
    """Yield the samples of the shards one after the other, from `offset` of the first."""
    for pairs, masks in shards:
        yield from islice(read_shard_with_masks(pairs, masks, counts), offset, None)
        offset = 0


def _decode_mask(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Decode a palette PNG to [size, size] segment ids, by nearest neighbour."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.mode not in {"P", "L"}:
                raise ImageError("bad mask", "is no palette image", "The mask")
            return np.array(image.resize((size, size), Image.Resampling.NEAREST))
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
        raise ImageError("bad mask", "is corrupt", "The mask") from error


def _generator(seed: int, *purpose: str | int) -> random.Random:
    """Return the generator of one purpose, the same in every process."""
    return random.Random(f"{seed} {purpose}")  # noqa: S311 - shuffling, not cryptography


def _listed(counts: Counter[str]) -> str:
    """Return the reasons, the commonest first, in brackets."""
    parts = ", ".join(f"{reason}: {number}" for reason, number in counts.most_common())
    return f" ({parts})" if parts else ""
