"""The trained model as users call it: an image and class names in, a `Segmentation` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS, load_weights
from sseg_core.config import PseudomaskConfig, TrainConfig, build_config
from sseg_core.data.images import RGBImage
from sseg_core.device import pick_device
from sseg_core.errors import ConfigError
from sseg_core.inference.combine import (
    best_of_windows,
    class_probabilities,
    class_scores,
    label_map,
)
from sseg_core.inference.image_input import LONGEST_SIDE, ImageLike, as_rgb, at_short_side
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.pamr import refine_window
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.small_classes import without_small
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import window_boxes
from sseg_core.inference.word_features import WordFeatures
from sseg_core.models.build import Model, build_model
from sseg_core.models.pseudomask_vit import PseudoMaskViT
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.text.prompts import check_class_names, fill_template
from sseg_core.text.tokenizer import Tokenizer

__all__ = ["LONGEST_SIDE", "Segmentation", "Segmenter", "default_image_size", "give_segments"]


class Segmenter:
    """A trained model, ready to segment images by any class names.

    Attributes:
        image_size: the short side of an image as the network sees it, unless a call says another.
        artifact: the checkpoint it came from; None when built from parts.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Callable[[Sequence[str]], npt.NDArray[np.int64]],
        image_size: int,
        template: str = "{}",
        artifact: Artifact | None = None,
    ) -> None:
        self.image_size = image_size
        self.template = template
        self.artifact = artifact
        self._model = model.eval()
        digest = None if artifact is None else artifact.manifest.files[WEIGHTS].sha256
        self._words = WordFeatures(model.encode_texts, tokenizer, digest)

    @property
    def template(self) -> str:
        """The text around a class name; `{}` stands for the name."""
        return self._template

    @template.setter
    def template(self, template: str) -> None:
        fill_template(template, "name")  # raises ConfigError where it cannot hold a name
        self._template = template

    @classmethod
    def load(
        cls,
        reference: str | None = None,
        *,
        store: ArtifactStore | None = None,
        device: str = "auto",
    ) -> Segmenter:
        """Load a checkpoint artifact.

        Args:
            reference: `NAME`, `NAME:vN`, a path, or None for the newest checkpoint.
            store: where to look; default: `$SSEG_STORE`, else `./sseg-artifacts`.
            device: `cpu`, `cuda`, ..., or `auto` for a GPU where there is one.

        Raises:
            ArtifactError: there is no such checkpoint, or it was changed; or the network reads
                pseudo-masks, and what makes them is not at hand.
            ConfigError: there is no such device.
        """
        artifact = (store or ArtifactStore.default()).find(reference, "checkpoint")
        weights = artifact.verified_file(WEIGHTS)
        config = build_config(TrainConfig, artifact.manifest.config)
        # The weights are in the checkpoint: those that training started from need not be there.
        from_scratch = {"pretrained": False, "weights": None}
        backbone = config.model.backbone.model_copy(update=from_scratch)
        model = build_model(config.model.model_copy(update={"backbone": backbone}))
        load_weights(model, weights)
        model.to(pick_device(device))
        give_segments(model, config.masks.generator)
        return cls(
            model,
            Tokenizer(config.model.text.context_length),
            default_image_size(config),
            config.model.text.template,
            artifact,
        )

    def segment(
        self,
        image: ImageLike,
        class_names: Sequence[str],
        *,
        threshold: float = 0.0,
        image_size: int | None = None,
    ) -> Segmentation:
        """Segment one image by the given class names.

        Args:
            image: a file, [H, W, 3] uint8 RGB, or a Pillow image, which is taken like a file.
            class_names: the words to look for; every pixel gets one of them.
            threshold: pixels whose best probability is lower are background, in [0, 1].
            image_size: the short side as the network sees it; default: `self.image_size`.

        Raises:
            DataError: the image cannot be read, or is no RGB image.
            ConfigError: an unusable class name, template or size.
        """
        pixels = as_rgb(image)
        return self.segment_batch(
            [pixels], class_names, threshold=threshold, image_size=image_size
        )[0]

    @torch.inference_mode()
    def segment_batch(
        self,
        images: Sequence[RGBImage],
        class_names: Sequence[str] | Vocabulary,
        *,
        view: View = View(),  # noqa: B008 - frozen
        threshold: float = 0.0,
        image_size: int | None = None,
    ) -> list[Segmentation]:
        """Segment several [H, W, 3] uint8 RGB images; see `segment`.

        Images of one size go through the network together; others never share a batch, so a
        result does not depend on what else is in the list.

        Args:
            images: of any sizes.
            class_names: the words to look for, or a vocabulary with several words for a class and
                words for background.
            view: how images and words are shown to the network.
            threshold: as in `segment`.
            image_size: as in `segment`; comes before the view's.
        """
        vocabulary = (
            class_names
            if isinstance(class_names, Vocabulary)
            else Vocabulary.of(check_class_names(class_names))
        )
        view = self.complete(replace(view, short_side=image_size or view.short_side))
        assert view.short_side is not None
        groups: dict[tuple[int, int], list[int]] = {}
        inputs = [at_short_side(as_rgb(image), view.short_side) for image in images]
        for index, pixels in enumerate(inputs):
            groups.setdefault(pixels.shape[:2], []).append(index)
        results: dict[int, Segmentation] = {}
        for input_size, members in groups.items():
            looks = self._look_at([inputs[i] for i in members], vocabulary.words, view)
            for index, windows in zip(members, looks, strict=True):
                size = images[index].shape[:2]
                best = best_of_windows(windows, input_size, size)
                if view.min_share > 0:
                    best = without_small(best, windows, input_size, vocabulary, view.min_share)
                results[index] = Segmentation(
                    label_map=vocabulary.class_map(label_map(best, threshold).cpu().numpy()),
                    probabilities=best.probabilities.cpu().numpy(),
                    class_names=vocabulary.class_names,
                    image=images[index],
                )
        return [results[index] for index in range(len(images))]

    @torch.inference_mode()
    def class_probabilities(
        self, image: ImageLike, class_names: Sequence[str], *, image_size: int | None = None
    ) -> npt.NDArray[np.float32]:
        """Return the probability of every class at every pixel, [C, H, W] float32.

        The arguments are those of `segment`, which needs far less memory.
        """
        pixels = as_rgb(image)
        view = self.complete(View(short_side=image_size))
        assert view.short_side is not None
        resized = at_short_side(pixels, view.short_side)
        [windows] = self._look_at([resized], check_class_names(class_names), view)
        scores: npt.NDArray[np.float32] = (
            class_scores(windows, resized.shape[:2], pixels.shape[:2]).cpu().numpy()
        )
        return scores

    @torch.inference_mode()
    def complete(self, view: View) -> View:
        """Return the view with this model's own choice for all that it leaves open."""
        return view.completed(
            short_side=self.image_size,
            templates=(self.template,),
            logit_scale=float(self._model.similarity_scale()),
        )

    def _look_at(
        self, images: Sequence[RGBImage], words: tuple[str, ...], view: View
    ) -> list[list[WindowMasks]]:
        """Return the windows of each image with their masks; the images have one size."""
        assert view.window is not None
        assert view.stride is not None
        assert view.templates is not None
        assert view.logit_scale is not None
        device = next(self._model.parameters()).device
        texts_CD = self._words.of(words, view.templates, device, articles=view.articles)
        batch = torch.from_numpy(np.stack(images)).to(device).permute(0, 3, 1, 2)
        windows: list[list[WindowMasks]] = [[] for _ in images]
        for box in window_boxes(images[0].shape[:2], view.window, view.stride):
            pixels = batch[:, :, box.top : box.bottom, box.left : box.right].float() / 255
            output = self._model.encode_images(pixels)
            masks_BQD = self._model.project_masks(output.mask_features)
            classes_BQC = class_probabilities(masks_BQD, texts_CD, view.logit_scale)
            for index, own in enumerate(windows):
                window = WindowMasks(
                    output.mask_logits[index], classes_BQC[index], box, output.stride
                )
                refined = view.refine == "pamr"
                own.append(refine_window(window, pixels[index]) if refined else window)
        return windows


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
