"""Networks with an open vocabulary: masks, and words that are compared with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sseg_core.checkpoint import load_weights
from sseg_core.config import PseudomaskConfig, TrainConfig
from sseg_core.data.images import RGBImage
from sseg_core.errors import ConfigError
from sseg_core.inference.combine import best_of_windows, class_probabilities, class_scores
from sseg_core.inference.device_pixels import on_device
from sseg_core.inference.looks import Looks
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.pamr import refine_window
from sseg_core.inference.prediction import Prediction
from sseg_core.inference.small_classes import without_small
from sseg_core.inference.text_cache import Features
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.word_features import WordFeatures
from sseg_core.models.build import Model, build_model
from sseg_core.models.pseudomask_vit import PseudoMaskViT
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.text.prompts import fill_template
from sseg_core.text.tokenizer import Tokenizer


class WordNetwork:
    """S-Seg, or its baseline 2: segments by any words.

    Attributes:
        image_size: the short side of an image as the network sees it, unless a view says another.
        class_names: None: it takes any words.
        tells_background: False: what is background, a threshold or a word has to tell.
    """

    class_names: None = None
    tells_background = False

    def __init__(
        self,
        model: Model,
        tokenizer: Callable[[Sequence[str]], npt.NDArray[np.int64]],
        image_size: int,
        template: str = "{}",
        digest: str | None = None,
    ) -> None:
        """Take a model.

        Args:
            model: on the device where it computes.
            tokenizer: returns the ids of texts.
            image_size: see the attribute.
            template: the text around a class name, `{}` in its place.
            digest: of the weights, to keep the features of words on disk; None for a model that is
                still learning.

        Raises:
            ConfigError: the template cannot hold a name.
        """
        self.image_size = image_size
        self.template = template
        self._model = model.eval()
        self._words = WordFeatures(self._encode, tokenizer, digest)

    @classmethod
    def load(
        cls, config: TrainConfig, weights: Path, digest: str, device: torch.device
    ) -> WordNetwork:
        """Build the network of a checkpoint.

        Args:
            config: of its training; its backbone starts from nothing.
            weights: file of all its weights.
            digest: of that file.
            device: where to compute.

        Raises:
            ArtifactError: the weights are of another model; or the network reads pseudo-masks, and
                what makes them is not at hand.
        """
        model = build_model(config.model)
        load_weights(model, weights)
        model.to(device)
        give_segments(model, config.masks.generator)
        text = config.model.text
        tokenizer = Tokenizer(text.context_length)
        return cls(model, tokenizer, default_image_size(config), text.template, digest)

    @property
    def model(self) -> Model:
        """The network itself, in eval mode."""
        return self._model

    @property
    def template(self) -> str:
        """The text around a class name; `{}` stands for the name."""
        return self._template

    @template.setter
    def template(self, template: str) -> None:
        fill_template(template, "name")  # raises ConfigError where it cannot hold a name
        self._template = template

    @torch.inference_mode()
    def complete(self, view: View) -> View:
        """Return the view with this model's own choice for all that it leaves open."""
        return view.completed(
            short_side=self.image_size,
            templates=(self.template,),
            logit_scale=float(self._model.similarity_scale()),
        )

    def check(self, vocabulary: Vocabulary) -> None:
        """Do nothing: any word may be asked for."""

    @torch.inference_mode()
    def look(self, looks: Looks, vocabulary: Vocabulary, view: View) -> list[SeenMasks]:
        """Return the masks of the windows of each image; see `Network`."""
        assert view.templates is not None
        assert view.logit_scale is not None
        device = self._device
        features_CD = self._words.of(vocabulary.words, view.templates, articles=view.articles)
        texts_CD = torch.from_numpy(features_CD).to(device)
        seen = [SeenMasks([], vocabulary, view.min_share) for _ in looks.members]
        for window, shown in looks.windows():
            pixels = on_device(shown, device)
            output = self._model.encode_images(pixels)
            masks_BQD = self._model.project_masks(output.mask_features)
            classes_BQC = class_probabilities(masks_BQD, texts_CD, view.logit_scale)
            for index, own in enumerate(seen):
                masks = WindowMasks(
                    output.mask_logits[index], classes_BQC[index], window, output.stride
                )
                refined = view.refine == "pamr"
                own.windows.append(refine_window(masks, pixels[index]) if refined else masks)
        return seen

    @property
    def _device(self) -> torch.device:
        return next(self._model.parameters()).device

    def _encode(self, token_ids: npt.NDArray[np.int64]) -> Features:
        """Return [n, D] float32 unit vectors of [n, L] token ids."""
        features = self._model.encode_texts(torch.from_numpy(token_ids).to(self._device))
        vectors: Features = features.float().cpu().numpy()
        return vectors


@dataclass(frozen=True, eq=False)
class SeenMasks:
    """The masks of the windows of an image; see `Seen`.

    Attributes:
        windows: their masks.
        vocabulary: the words that they are compared with.
        min_share: see `View`.
    """

    windows: list[WindowMasks]
    vocabulary: Vocabulary
    min_share: float

    @torch.inference_mode()
    def label(self, image: RGBImage) -> Prediction:
        """Return the class of the best word of every pixel, and its probability."""
        best = best_of_windows(self.windows, (image.shape[0], image.shape[1]))
        if self.min_share > 0:
            best = without_small(best, self.windows, self.vocabulary, self.min_share)
        labels = self.vocabulary.class_map(best.classes.cpu().numpy())
        return Prediction(labels, best.probabilities.cpu().numpy())

    @torch.inference_mode()
    def class_probabilities(self, size: tuple[int, int]) -> npt.NDArray[np.float32]:
        """Return [C, H, W] float32 the probability of every class at every pixel."""
        return self.vocabulary.of_classes(class_scores(self.windows, size).cpu().numpy())


def default_image_size(config: TrainConfig) -> int:
    """Return the short side at which a model is used: twice its crop.

    That is 448 for the paper's crop of 224 (S-Seg App. A.1); the same ratio for other crops is
    our choice, not in the paper.
    """
    return 2 * config.loader.crop_size


def give_segments(model: Model, config: PseudomaskConfig) -> None:
    """Let a network that reads pseudo-masks make them of any image; do nothing to others.

    An image is segmented as a square of `config.image_size`, like those that the network was
    trained on. The result depends on nothing else in the batch.

    Args:
        model: on the device where it will be used.
        config: how the pseudo-masks of its training were made.

    Raises:
        ConfigError: more segments than the network takes, or an option of the generator that does
            not go with the others.
        ArtifactError: the weights of the features are not at hand.
    """
    if not isinstance(model, PseudoMaskViT):
        return
    slots = model.config.decoder.num_queries
    if config.masks > slots:
        raise ConfigError(
            f"The pseudo-masks have up to {config.masks} segments, but the network takes {slots}.",
            f"Train with --set model.decoder.num_queries={config.masks}.",
        )
    generator = PseudoMaskGenerator(config, model.mean.device)

    def segment(images: Tensor) -> Tensor:
        return generator(images, [""] * len(images))

    model.segmenter = segment
