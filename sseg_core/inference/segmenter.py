"""The trained model as users call it: an image and class names in, a `Segmentation` out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS, load_weights
from sseg_core.config import MAX_PIXELS, PseudomaskConfig, TrainConfig, build_config
from sseg_core.data.batches import trimmed
from sseg_core.data.images import RGBImage, read_image, resize_image, to_rgb
from sseg_core.device import pick_device
from sseg_core.errors import ConfigError, DataError
from sseg_core.inference.combine import (
    MaskGrid,
    best_classes,
    class_probabilities,
    class_scores,
    label_map,
)
from sseg_core.inference.segmentation import Segmentation
from sseg_core.models.build import Model, build_model
from sseg_core.models.pseudomask_vit import PseudoMaskViT
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.text.prompts import check_class_names, fill_template
from sseg_core.text.tokenizer import Tokenizer

__all__ = ["Segmentation", "Segmenter", "default_image_size", "give_segments"]

ImageLike = str | Path | npt.NDArray[np.uint8] | Image.Image

LONGEST_SIDE = 4
"""The long side is at most this many times `image_size`, so that a panorama fits in memory."""

_TEXTS_AT_ONCE = 256  # bounds the activations of the text encoder for a thousand class names
_CACHED_VOCABULARIES = 32


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
        self._tokenizer = tokenizer
        self._texts: dict[tuple[str, tuple[str, ...]], Tensor] = {}

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
        pixels = _as_rgb(image)
        return self.segment_batch(
            [pixels], class_names, threshold=threshold, image_size=image_size
        )[0]

    @torch.inference_mode()
    def segment_batch(
        self,
        images: Sequence[RGBImage],
        class_names: Sequence[str],
        *,
        threshold: float = 0.0,
        image_size: int | None = None,
    ) -> list[Segmentation]:
        """Segment several [H, W, 3] uint8 RGB images; see `segment`.

        Images of one size go through the network together; others never share a batch, so a
        result does not depend on what else is in the list.
        """
        names = check_class_names(class_names)
        texts_CD = self._encode_texts(names)
        groups: dict[tuple[int, int], list[int]] = {}
        inputs = [_resized(_as_rgb(image), image_size or self.image_size) for image in images]
        for index, pixels in enumerate(inputs):
            groups.setdefault(pixels.shape[:2], []).append(index)
        results: dict[int, Segmentation] = {}
        for members in groups.values():
            logits, classes, grid = self._encode_images([inputs[i] for i in members], texts_CD)
            for row, index in enumerate(members):
                one = slice(row, row + 1)
                size = images[index].shape[:2]
                best = best_classes(logits[one], classes[one], size, grid)
                results[index] = Segmentation(
                    label_map=label_map(best, threshold)[0].cpu().numpy(),
                    probabilities=best.probabilities[0].cpu().numpy(),
                    class_names=names,
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
        pixels = _as_rgb(image)
        texts_CD = self._encode_texts(check_class_names(class_names))
        resized = _resized(pixels, image_size or self.image_size)
        logits, classes, grid = self._encode_images([resized], texts_CD)
        scores: npt.NDArray[np.float32] = (
            class_scores(logits, classes, pixels.shape[:2], grid)[0].cpu().numpy()
        )
        return scores

    def _encode_images(
        self, images: Sequence[RGBImage], texts_CD: Tensor
    ) -> tuple[Tensor, Tensor, MaskGrid]:
        """Return mask logits [B, Q, h, w], p(c | q) [B, Q, C] and the grid of same-size images."""
        device = texts_CD.device
        batch = torch.from_numpy(np.stack(images)).to(device)
        output = self._model.encode_images(batch.permute(0, 3, 1, 2).float() / 255)
        masks_BQD = self._model.project_masks(output.mask_features)
        classes = class_probabilities(masks_BQD, texts_CD, self._model.similarity_scale())
        grid = MaskGrid(input_size=images[0].shape[:2], stride=output.stride)
        return output.mask_logits, classes, grid

    def _encode_texts(self, names: tuple[str, ...]) -> Tensor:
        """Return the [C, D] text features of the names in the template, from a small cache."""
        key = (self.template, names)
        if key not in self._texts:
            texts = [fill_template(self.template, name) for name in names]
            ids = torch.from_numpy(trimmed(self._tokenizer(texts)))
            ids = ids.to(next(self._model.parameters()).device)
            parts = [self._model.encode_texts(part) for part in torch.split(ids, _TEXTS_AT_ONCE)]
            if len(self._texts) >= _CACHED_VOCABULARIES:
                self._texts.pop(next(iter(self._texts)))  # the oldest
            self._texts[key] = torch.cat(parts)
        return self._texts[key]


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


def _as_rgb(image: ImageLike) -> RGBImage:
    if isinstance(image, str | Path):
        return read_image(Path(image), MAX_PIXELS)
    if isinstance(image, Image.Image):
        return to_rgb(ImageOps.exif_transpose(image))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise DataError(
            f"An image must be [H, W, 3] uint8, not {list(image.shape)} {image.dtype}.",
            "Scale to 0..255 and put the colours last.",
        )
    return image


def _resized(image: RGBImage, image_size: int) -> RGBImage:
    """Return the image at a short side of `image_size`, or smaller where it is very long."""
    if image_size < 1:
        raise ConfigError(f"image_size must be at least 1, got {image_size}.")
    height, width = image.shape[:2]
    scale = min(image_size / min(height, width), LONGEST_SIDE * image_size / max(height, width))
    new_height, new_width = max(1, round(height * scale)), max(1, round(width * scale))
    return resize_image(image, (new_height, new_width))
