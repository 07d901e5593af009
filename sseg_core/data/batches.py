"""Samples in, a batch out: decoding, the words of a caption, token ids."""

from __future__ import annotations

import functools
import io
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL.PngImagePlugin import PngImageFile

from sseg_core.config import LoaderConfig
from sseg_core.data.images import ImageError, RGBImage, decode_image
from sseg_core.data.shards import Sample
from sseg_core.data.token_rows import trimmed
from sseg_core.data.words import nouns_and_verbs
from sseg_core.structures import MAX_PIXELS, Batch

TokenizerCall = Callable[[Sequence[str]], npt.NDArray[np.int64]]
"""Texts in, [B, L] int64 token ids out, the largest of a row at its end, as `Tokenizer` gives
them; it travels to the workers, so it must be picklable."""


@dataclass(frozen=True)
class DecodedSample:
    """A sample with its pixels.

    Attributes:
        sample: what it was decoded from.
        image: [S, S, 3] uint8 RGB.
        label_map: [S, S] uint8 segment ids; None where masks are made online.
    """

    sample: Sample
    image: RGBImage
    label_map: npt.NDArray[np.uint8] | None


@dataclass(frozen=True)
class BatchMaker:
    """Makes batches of one size.

    Attributes:
        config: image size, words of the captions.
        batch_size: samples in a batch.
        tokenizer: texts to token ids.
    """

    config: LoaderConfig
    batch_size: int
    tokenizer: TokenizerCall

    def decode(
        self, items: Iterable[tuple[Sample, bytes | None]], skipped: Counter[str]
    ) -> list[DecodedSample]:
        """Decode what can be decoded; count the rest by reason."""
        size = self.config.load_size
        decoded = []
        for sample, mask in items:
            try:
                image = decode_image(sample.image, max_pixels=MAX_PIXELS, size=(size, size))
                label_map = None if mask is None else decode_mask(mask, size)
            except ImageError as error:
                skipped[error.reason] += 1
            else:
                decoded.append(DecodedSample(sample, image, label_map))
        return decoded

    def assemble(
        self, decoded: Sequence[DecodedSample], rng: random.Random, skipped: Counter[str]
    ) -> Batch:
        """Make a batch, its empty places filled by going through the samples again."""
        filled = [decoded[i % len(decoded)] for i in range(self.batch_size)]
        texts = [rng.choice(item.sample.captions) for item in filled]
        if self.config.caption_words == "nouns_verbs":
            texts = [nouns_and_verbs(text) for text in texts]
        if self.config.word_dropout:
            texts = [with_fewer_words(text, self.config.word_dropout, rng) for text in texts]
        label_maps = [item.label_map for item in filled if item.label_map is not None]
        return Batch(
            # In memory the colours of a pixel stay together, as they are decoded and cropped.
            images=torch.from_numpy(np.stack([item.image for item in filled])).permute(0, 3, 1, 2),
            label_maps=torch.from_numpy(np.stack(label_maps)) if label_maps else None,
            token_ids=torch.from_numpy(trimmed(self.tokenizer(texts))),
            keys=tuple(item.sample.key for item in filled),
            skipped=dict(skipped),
        )


def decode_mask(data: bytes, size: int) -> npt.NDArray[np.uint8]:
    """Decode a palette PNG to [size, size] segment ids, by nearest neighbour.

    Raises:
        ImageError: it is no palette image, or corrupt; the reason is "bad mask".
    """
    try:
        with PngImageFile(io.BytesIO(data)) as image:
            if image.mode not in {"P", "L"}:
                raise ImageError("bad mask", "is no palette image", "The mask")
            if image.width * image.height > MAX_PIXELS:
                raise ImageError("bad mask", "has too many pixels", "The mask")
            ids = np.asarray(image)
    except ImageError:
        raise
    except Exception as error:  # Pillow's readers raise whatever their parsing stumbles on
        raise ImageError("bad mask", "is corrupt", "The mask") from error
    rows, columns = (_nearest(length, size) for length in ids.shape)
    return ids.take(columns, axis=1).take(rows, axis=0)  # rows last: they are copied whole


@functools.cache
def _nearest(length: int, size: int) -> npt.NDArray[np.int64]:
    """Return which of `length` places is nearest to each of `size` that cover the same line."""
    return (2 * np.arange(size) + 1) * length // (2 * size)


def with_fewer_words(text: str, dropout: float, rng: random.Random) -> str:
    """Leave out each word with probability `dropout`, but never all of them."""
    words = text.split()
    kept = [word for word in words if rng.random() >= dropout]
    return " ".join(kept or (words and [rng.choice(words)]))
