"""Baseline B1 of S-Seg Sec. 4.1: pseudo-masks, each shown to CLIP and named by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.artifacts import Artifact
from sseg_core.config import PseudomaskConfig
from sseg_core.data.images import RGBImage
from sseg_core.evaluation.rivals.clip_dense import clip_note
from sseg_core.evaluation.rivals.open_clip_model import ClipName, OpenClip
from sseg_core.evaluation.rivals.oracle import square_images
from sseg_core.evaluation.rivals.rival import Prediction
from sseg_core.evaluation.rivals.text_encoder import TextEncoder
from sseg_core.inference.score_maps import label_pixels
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Box
from sseg_core.pseudomask.clustering import resolve
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.structures import IGNORE_LABEL
from sseg_core.text.templates import TEMPLATE_SETS

KIND = "pseudomask-clip"

_SEGMENTS_AT_ONCE = 64
_FLOATS = 1 << 20  # of scores held at once


class PseudoMaskClip:
    """Lets CLIP classify the image with all but one segment hidden, segment by segment.

    Hidden pixels have CLIP's mean colour, 0 after normalisation (our choice; the paper says only
    that the mask is applied to the image). CLIP sees the whole image squeezed into its square,
    as the pseudo-mask generator does, so that no segment is cut off.
    """

    def __init__(
        self,
        name: ClipName,
        clip: OpenClip,
        generator: PseudomaskConfig,
        view: View,
        *,
        weights: str | None,
        device: torch.device,
    ) -> None:
        """Make the rival.

        Args:
            name: of the CLIP; the paper takes ViT-L-14.
            clip: on `device`.
            generator: makes the segments.
            view: of the protocol; CLIP's image size is its own, whatever the view says of it.
            weights: the local file that the CLIP came from, if it did.
            device: where to compute.
        """
        self.reference = f"{KIND}:{name}"
        whole = replace(view, short_side=clip.image_size, window=0, stride=0)
        self.view = whole.completed(
            short_side=clip.image_size,
            templates=TEMPLATE_SETS["simple"],
            logit_scale=clip.logit_scale,
        )
        self.parents: tuple[Artifact, ...] = ()
        generator = resolve(generator)
        self.notes = (
            f"Up to {generator.masks} segments of {generator.features}, {generator.clustering}",
            clip_note(name, weights),
        )
        self._clip = clip
        self._generator = PseudoMaskGenerator(generator, device)
        self._image_size = generator.image_size
        self._texts = TextEncoder(
            clip.encode_text, clip.context_length, clip.text_tensors(), device
        )
        self._device = device

    @torch.inference_mode()
    def segment(self, images: Sequence[RGBImage], vocabulary: Vocabulary) -> list[Prediction]:
        """Return a label map of each image; see `Rival`."""
        texts_WD = self._texts.features(vocabulary.words, self.view)
        squares = square_images(images, self._image_size, self._device)
        segments_Bhw = self._generator(squares, [""] * len(images)).long()
        return [
            self._classify(image, segments_hw, texts_WD, vocabulary)
            for image, segments_hw in zip(images, segments_Bhw, strict=True)
        ]

    def _classify(
        self, image: RGBImage, segments_hw: Tensor, texts_WD: Tensor, vocabulary: Vocabulary
    ) -> Prediction:
        scores_KW = self._scores(image, segments_hw, texts_WD)
        # Pixels without a segment have the score 0 for every word: they are background.
        scores_KW = F.pad(scores_KW, (0, 0, 0, 1))
        ids_hw = segments_hw.masked_fill(segments_hw == IGNORE_LABEL, len(scores_KW) - 1)

        def scores(size: tuple[int, int]) -> Iterator[tuple[Box, Tensor]]:
            top, step = 0, max(1, _FLOATS // (scores_KW.shape[1] * size[1]))
            for ids_rX in torch.split(stretched(ids_hw, size), step):
                yield Box(top, 0, *ids_rX.shape), scores_KW[ids_rX]
                top += step

        return label_pixels(scores, vocabulary, image, self.view)

    def _scores(self, image: RGBImage, segments_hw: Tensor, texts_WD: Tensor) -> Tensor:
        """Return [K, W] the probability of each word for each segment."""
        size = self._clip.image_size
        count = int(segments_hw.masked_fill(segments_hw == IGNORE_LABEL, -1).max()) + 1
        square_13SS = self._clip.normalise(square_images([image], size, self._device))
        ids_SS = stretched(segments_hw, (size, size))
        masks_KSS = ids_SS == torch.arange(count, device=ids_SS.device)[:, None, None]
        features_KD = torch.cat(
            [
                self._clip.encode_image(square_13SS * masks[:, None])
                for masks in torch.split(masks_KSS, _SEGMENTS_AT_ONCE)
            ]
        )
        assert self.view.logit_scale is not None
        logits_KW = self.view.logit_scale * F.normalize(features_KD, dim=1) @ texts_WD.T
        return logits_KW.softmax(dim=1)


def stretched(cells_hw: Tensor, size: tuple[int, int]) -> Tensor:
    """Return [H, W] the cell that holds the centre of each pixel."""
    index = []
    for cells, pixels in zip(cells_hw.shape, size, strict=True):
        # In whole numbers: floor((y + 0.5) * cells / pixels).
        index.append(torch.from_numpy((2 * np.arange(pixels) + 1) * cells // (2 * pixels)))
    rows, columns = (i.to(cells_hw.device) for i in index)
    return cells_hw[rows[:, None], columns]
