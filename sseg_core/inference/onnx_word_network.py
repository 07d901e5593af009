"""Networks with an open vocabulary, exported: their graphs run without torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sseg_core.inference.array_labels import SeenArrays
from sseg_core.inference.array_masks import MaskArrays, SeenWindows
from sseg_core.inference.looks import Looks
from sseg_core.inference.onnx_session import OnnxSession
from sseg_core.inference.onnx_view import check_view, float_pixels
from sseg_core.inference.text_cache import Features
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.word_features import WordFeatures
from sseg_core.text.prompts import fill_template
from sseg_core.text.tokenizer import Tokenizer


class OnnxWordNetwork:
    """S-Seg as `sseg export` wrote it: segments by any words; see `WordNetwork`.

    Attributes:
        image_size: the short side of an image as the network sees it, unless a view says another.
        class_names: None: it takes any words.
        tells_background: False: what is background, a threshold or a word has to tell.
    """

    class_names: None = None
    tells_background = False

    def __init__(
        self,
        image_graph: OnnxSession,
        text_graph: OnnxSession,
        tokenizer: Tokenizer,
        *,
        image_size: int,
        stride: int,
        logit_scale: float,
        template: str = "{}",
        digest: str | None = None,
    ) -> None:
        """Take the graphs of a model.

        Args:
            image_graph: images and text features to mask logits and class probabilities.
            text_graph: token ids to text features.
            tokenizer: returns the ids of texts.
            image_size: see the attribute.
            stride: pixels of the image per cell of the mask logits.
            logit_scale: the learned temperature, 1 / sigma.
            template: the text around a class name, `{}` in its place.
            digest: of the text graph, to keep the features of words on disk.

        Raises:
            ConfigError: the template cannot hold a name.
        """
        self.image_size = image_size
        self.template = template
        self._stride = stride
        self._logit_scale = logit_scale
        self._image_graph = image_graph
        self._text_graph = text_graph
        self._words = WordFeatures(self._encode, tokenizer, digest)

    @property
    def template(self) -> str:
        """The text around a class name; `{}` stands for the name."""
        return self._template

    @template.setter
    def template(self, template: str) -> None:
        fill_template(template, "name")  # raises ConfigError where it cannot hold a name
        self._template = template

    def complete(self, view: View) -> View:
        """Return the view with this model's own choice for all that it leaves open.

        Raises:
            ConfigError: the view asks for what needs torch.
        """
        check_view(view)
        return view.completed(
            short_side=self.image_size,
            templates=(self.template,),
            logit_scale=self._logit_scale,
        )

    def check(self, vocabulary: Vocabulary) -> None:
        """Do nothing: any word may be asked for."""

    def look(self, looks: Looks, vocabulary: Vocabulary, view: View) -> list[SeenArrays]:
        """Return the masks of the windows of each image; see `Network`."""
        assert view.templates is not None
        assert view.logit_scale is not None
        check_view(view)
        words = {
            "text_features": self._words.of(
                vocabulary.words, view.templates, articles=view.articles
            ),
            "logit_scale": np.array(view.logit_scale, np.float32),
        }
        masks: list[list[MaskArrays]] = [[] for _ in looks.members]
        for window, shown in looks.windows():
            logits_BQhw, classes_BQC = self._image_graph(
                {"images": float_pixels(shown), **words}, ["mask_logits", "class_probabilities"]
            )
            for own, logits, classes in zip(masks, logits_BQhw, classes_BQC, strict=True):
                own.append(MaskArrays(logits, classes, window, self._stride))
        return [SeenArrays(SeenWindows(own), vocabulary, view.min_share) for own in masks]

    def _encode(self, token_ids: npt.NDArray[np.int64]) -> Features:
        """Return [n, D] float32 unit vectors of [n, L] token ids."""
        [features] = self._text_graph({"token_ids": token_ids}, ["text_features"])
        return features
