"""CLIP asked patch by patch: the rivals `clip:*`, `maskclip:*` and `clip-output:*`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.artifacts import Artifact
from sseg_core.data.images import RGBImage
from sseg_core.evaluation.rivals.open_clip_model import ClipName, OpenClip, TokenKind
from sseg_core.evaluation.rivals.rival import Prediction
from sseg_core.evaluation.rivals.shown_image import SHORT_SIDE, ShownImage
from sseg_core.evaluation.rivals.text_encoder import TextEncoder
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.score_maps import label_pixels
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import Box
from sseg_core.text.templates import IMAGENET_80, TEMPLATE_SETS

_WINDOWS_AT_ONCE = 16

_SIMPLE = TEMPLATE_SETS["simple"]


@dataclass(frozen=True)
class _Variant:
    """A way to ask CLIP for patches.

    Attributes:
        tokens: what describes a patch.
        templates: that it asks with where the protocol leaves it open.
        note: for a reader of its score.
    """

    tokens: TokenKind
    templates: tuple[str, ...]
    note: str


VARIANTS = {
    "clip": _Variant(
        "value",
        _SIMPLE,
        "Patches by their value embeddings in the last block, as S-Seg App. A.3 describes its CLIP",
    ),
    "maskclip": _Variant(
        "maskclip",
        (*IMAGENET_80, *TEMPLATE_SETS["maskclip"]),  # its 85 texts
        "Patches by the value path of the last block and its MLP, as in the code of MaskCLIP (Zhou "
        "et al., ECCV 2022), without its key smoothing and prompt denoising",
    ),
    "clip-output": _Variant(
        "output",
        _SIMPLE,
        "Patches by the tokens of the unchanged network, which SCLIP and others call CLIP",
    ),
}
"""By the kind in `--model KIND:ARCH`."""


class DenseClip:
    """Classifies each patch of an image by the words it is most similar to.

    The cosine similarities are interpolated to the pixels and averaged over the windows; then the
    softmax over the words makes them probabilities.
    """

    def __init__(
        self,
        kind: str,
        name: ClipName,
        clip: OpenClip,
        view: View,
        *,
        weights: str | None,
        device: torch.device,
    ) -> None:
        """Make the rival `kind`, a key of `VARIANTS`.

        Args:
            kind: what describes a patch.
            name: of the CLIP.
            clip: on `device`.
            view: of the protocol.
            weights: the local file that they came from, if they did.
            device: where to compute.
        """
        variant = VARIANTS[kind]
        self.reference = f"{kind}:{name}"
        self.view = view.completed(
            short_side=SHORT_SIDE, templates=variant.templates, logit_scale=clip.logit_scale
        )
        self.parents: tuple[Artifact, ...] = ()
        self.notes = (variant.note, clip_note(name, weights))
        self._tokens = variant.tokens
        self._clip = clip
        self._texts = TextEncoder(
            clip.encode_text, clip.context_length, clip.text_tensors(), device
        )
        self._device = device

    @torch.inference_mode()
    def segment(self, images: Sequence[RGBImage], vocabulary: Vocabulary) -> list[Prediction]:
        """Return a label map of each image; see `Rival`. Each is seen by itself."""
        texts_WD = self._texts.features(vocabulary.words, self.view)
        return [self._segment(image, texts_WD, vocabulary) for image in images]

    def _segment(self, image: RGBImage, texts_WD: Tensor, vocabulary: Vocabulary) -> Prediction:
        view = self.view
        assert view.logit_scale is not None
        shown = ShownImage(image, view, self._device)
        logits_nhwW = torch.cat(
            [
                self._logits(windows, texts_WD, view.logit_scale)
                for windows in torch.split(shown.pixels_n3hw, _WINDOWS_AT_ONCE)
            ]
        )
        logits = CellMaps(list(logits_nhwW), shown.windows, self._clip.patch_size)

        def scores(size: tuple[int, int]) -> Iterator[tuple[Box, Tensor]]:
            for box, block_rxW in logits.blocks(size):
                yield box, block_rxW.softmax(dim=2)

        return label_pixels(scores, vocabulary, image, view)

    def _logits(self, windows_B3hw: Tensor, texts_WD: Tensor, logit_scale: float) -> Tensor:
        """Return [B, gh, gw, W] the scaled cosine similarities of the patches and the words."""
        tokens_BhwD = self._clip.tokens(self._clip.normalise(windows_B3hw), self._tokens)
        return logit_scale * F.normalize(tokens_BhwD, dim=3) @ texts_WD.T


def clip_note(name: ClipName, weights: str | None) -> str:
    """Return what a reader should know of the weights."""
    origin = f"{name.weights} weights" if weights is None else f"weights in {Path(weights).name}"
    return f"{name.architecture} of CLIP with {origin}, which learned from images and texts"
