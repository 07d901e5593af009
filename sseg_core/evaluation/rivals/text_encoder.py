"""The text halves of rivals, as the word features that all models of ours share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.inference.text_cache import Features
from sseg_core.inference.view import View
from sseg_core.inference.word_features import WordFeatures
from sseg_core.text.tokenizer import Tokenizer


class TextEncoder:
    """Turns words into the features of a rival's text half.

    Args:
        encode: returns [n, D] features of [n, L] token ids of CLIP's tokenizer, L being what the
            longest of the texts needs.
        context_length: the largest L.
        weights: of the text half; their digest names it in the cache of texts.
        device: of the rival.
    """

    def __init__(
        self,
        encode: Callable[[Tensor], Tensor],
        context_length: int,
        weights: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        def encode_unit(ids: npt.NDArray[np.int64]) -> Features:
            features = encode(torch.from_numpy(ids).to(device)).float()
            unit: Features = F.normalize(features, dim=1).cpu().numpy()
            return unit

        self._features = WordFeatures(
            encode_unit, Tokenizer(context_length), identity=weights_digest(weights)
        )
        self._device = device

    @torch.inference_mode()
    def features(self, words: tuple[str, ...], view: View) -> Tensor:
        """Return [W, D] unit vectors of W words.

        Args:
            words: to look for.
            view: its templates, which it must have, and articles.
        """
        assert view.templates
        features = self._features.of(words, view.templates, articles=view.articles)
        return torch.from_numpy(features).to(self._device)


def weights_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
