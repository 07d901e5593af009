"""GroupViT (Xu et al., CVPR 2022) as a rival, with the inference of its authors' code.

A window of the image is grouped, the patches of a group softly; each pixel then belongs to its
best group alone. Of the words only the five that suit the whole window best take part. A pixel's
score of a word is that of its group: the softmax over the five times the softmax over all words.

The authors let the background threshold not rise above the largest score of a window, so that
something of it always is foreground. Here the confidence of the groups with that score is 1
instead, which no threshold exceeds.

Shapes: n windows, G groups, W words, D features, gh x gw patches.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.artifacts import Artifact
from sseg_core.checkpoint import load_tensors, read_tensors
from sseg_core.data.fetch.hub_files import WEIGHT_NAMES, fetch_file
from sseg_core.data.images import RGBImage
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.rivals.rival import Prediction
from sseg_core.evaluation.rivals.shown_image import SHORT_SIDE, ShownImage
from sseg_core.evaluation.rivals.text_encoder import TextEncoder
from sseg_core.inference.combine import best_of_windows
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.pamr import refine_window
from sseg_core.inference.small_classes import without_small
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.text.templates import TEMPLATE_SETS

KIND = "groupvit"

DEFAULT = "nvidia/groupvit-gcc-redcaps"
"""What S-Seg compares with: the one with the best average of Table 3 (App. A.3)."""

_CONFIG = "config.json"
_MEAN = (0.485, 0.456, 0.406)  # as for ImageNet
_STD = (0.229, 0.224, 0.225)
_TOP_WORDS = 5
_LARGEST_SCALE = 100.0
_WINDOWS_AT_ONCE = 8


@dataclass(frozen=True, eq=False)
class Grouping:
    """What GroupViT makes of windows.

    Attributes:
        memberships: [n, G, gh, gw] of each patch in each group, summing to 1 over the groups.
        groups: [n, G, D] L2-normalised features.
        windows: [n, D] those of the whole windows.
    """

    memberships: Tensor
    groups: Tensor
    windows: Tensor


class GroupVit:
    """The rival; each image is seen by itself."""

    def __init__(
        self, model: Any, view: View, *, name: str, origin: str, device: torch.device
    ) -> None:
        """Make the rival.

        Args:
            model: a transformers GroupViTModel.
            view: of the protocol.
            name: of the model.
            origin: where its weights came from.
            device: where to compute.
        """
        self._model = model.eval().to(device)
        scale = min(float(model.logit_scale.detach().exp()), _LARGEST_SCALE)
        self.reference = KIND if name == DEFAULT else f"{KIND}:{name}"
        self.view = view.completed(
            short_side=SHORT_SIDE, templates=TEMPLATE_SETS["simple"], logit_scale=scale
        )
        self.parents: tuple[Artifact, ...] = ()
        self.notes = (
            f"GroupViT with the weights of {origin}, which learned from images and captions",
        )
        self._patch = int(model.config.vision_config.patch_size)
        self._mean = torch.tensor(_MEAN, device=device).view(3, 1, 1)
        self._std = torch.tensor(_STD, device=device).view(3, 1, 1)
        texts = {k: t for k, t in model.state_dict().items() if k.startswith("text_")}
        length = int(model.config.text_config.max_position_embeddings)
        self._texts = TextEncoder(self._encode_texts, length, texts, device)
        self._device = device

    @torch.inference_mode()
    def segment(self, images: Sequence[RGBImage], vocabulary: Vocabulary) -> list[Prediction]:
        """Return a label map of each image; see `Rival`."""
        texts_WD = self._texts.features(vocabulary.words, self.view)
        return [self._segment(image, texts_WD, vocabulary) for image in images]

    def group(self, windows_n3hw: Tensor) -> Grouping:
        """Return the groups of windows, float RGB in [0, 1].

        Sides that are no multiple of a patch get a border of mean colour at the end.
        """
        images = (windows_n3hw - self._mean) / self._std
        patch = self._patch
        images = F.pad(images, (0, -images.shape[3] % patch, 0, -images.shape[2] % patch))
        vision = self._model.vision_model
        tokens = vision.embeddings(images, interpolate_pos_encoding=True)
        output = vision.encoder(tokens, output_attentions=True, return_dict=True)
        groups_nGd = vision.layernorm(output.last_hidden_state)
        memberships = None
        for attention_nGN in output.attentions:  # each stage groups the groups before it
            step = attention_nGN.transpose(1, 2)
            memberships = step if memberships is None else memberships @ step
        assert memberships is not None
        n, G = groups_nGd.shape[:2]
        gh, gw = images.shape[2] // patch, images.shape[3] // patch
        project = self._model.visual_projection
        return Grouping(
            memberships=memberships.transpose(1, 2).reshape(n, G, gh, gw),
            groups=F.normalize(project(groups_nGd.flatten(0, 1)), dim=1).reshape(n, G, -1),
            windows=F.normalize(project(groups_nGd.mean(dim=1)), dim=1),
        )

    def _segment(self, image: RGBImage, texts_WD: Tensor, vocabulary: Vocabulary) -> Prediction:
        view = self.view
        assert view.logit_scale is not None
        shown = ShownImage(image, view, self._device)
        hard, scores = [], []
        for windows_n3hw in torch.split(shown.pixels_n3hw, _WINDOWS_AT_ONCE):
            grouping = self.group(windows_n3hw)
            hard.append(self._hard(grouping.memberships, windows_n3hw.shape[2:]))
            scores.append(word_scores(grouping, texts_WD, view.logit_scale))
        windows = [
            WindowMasks(hard_Ghw, scores_GW, window, stride=1, are_weights=True)
            for hard_Ghw, scores_GW, window in zip(
                torch.cat(hard), torch.cat(scores), shown.windows, strict=True
            )
        ]
        if view.refine == "pamr":
            windows = [
                refine_window(window, pixels_3hw)
                for window, pixels_3hw in zip(windows, shown.pixels_n3hw, strict=True)
            ]
        size = (image.shape[0], image.shape[1])
        best = best_of_windows(windows, size)
        if view.min_share > 0:
            best = without_small(best, windows, vocabulary, view.min_share)
        confidence = best_of_windows([_confident(w) for w in windows], size)
        return Prediction(
            vocabulary.class_map(best.classes.cpu().numpy()),
            confidence.probabilities.cpu().numpy(),
        )

    def _hard(self, memberships_nGhw: Tensor, size: Sequence[int]) -> Tensor:
        """Return [n, G, H, W] uint8, 1 where a pixel of the window belongs to the group."""
        padded = [side * self._patch for side in memberships_nGhw.shape[2:]]
        soft = F.interpolate(memberships_nGhw, padded, mode="bilinear", align_corners=False)
        best_n1HW = soft[..., : size[0], : size[1]].argmax(dim=1, keepdim=True)
        n, G = memberships_nGhw.shape[:2]
        empty = torch.zeros(n, G, *size, dtype=torch.uint8, device=soft.device)
        return empty.scatter_(1, best_n1HW, 1)

    def _encode_texts(self, token_ids: Tensor) -> Tensor:
        output = self._model.text_model(input_ids=token_ids, return_dict=True)
        features: Tensor = self._model.text_projection(output.pooler_output)
        return features


def word_scores(grouping: Grouping, texts_WD: Tensor, logit_scale: float) -> Tensor:
    """Return [n, G, W] the scores in [0, 1] of the words for each group."""
    logits_nGW = logit_scale * grouping.groups @ texts_WD.T
    logits_nW = grouping.windows @ texts_WD.T
    top = logits_nW.topk(min(_TOP_WORDS, len(texts_WD)), dim=1).indices
    is_top_nW = torch.zeros_like(logits_nW, dtype=torch.bool).scatter(1, top, value=True)
    among_top = logits_nGW.masked_fill(~is_top_nW[:, None], float("-inf")).softmax(dim=2)
    return among_top * logits_nGW.softmax(dim=2)


def _confident(window: WindowMasks) -> WindowMasks:
    """Return the window with the confidence of its groups in the place of their words' scores."""
    best_G = window.class_probabilities.amax(dim=1)
    confidence_G = torch.where(best_G < best_G.max(), best_G, 1.0)
    return replace(window, class_probabilities=confidence_G[:, None])


def open_groupvit(name: str, weights: str | None, view: View, device: torch.device) -> GroupVit:
    """Return the GroupViT of a repository of the hub, or of a folder as transformers saves it.

    Args:
        name: of the repository or folder; empty for `DEFAULT`.
        weights: a folder in the place of the repository.
        view: of the protocol.
        device: where to compute.

    Raises:
        ConfigError: transformers is not installed.
        ArtifactError: the model cannot be had, or is no GroupViT.
    """
    try:
        from transformers import GroupViTConfig, GroupViTModel
    except ImportError as error:
        raise ConfigError(
            "GroupViT needs the transformers library.", "Run: pip install 'sseg[rivals]'"
        ) from error
    name = name or DEFAULT
    config_file, weight_file = _files(name, weights)
    try:
        kind = json.loads(config_file.read_text(encoding="utf-8"))["model_type"]
        if kind != "groupvit":
            raise ValueError(kind)
        with torch.random.fork_rng(devices=[]):
            model: nn.Module = GroupViTModel(GroupViTConfig.from_pretrained(config_file.parent))
    except Exception as error:  # transformers raises errors of many kinds
        raise ArtifactError(
            f"{config_file} does not describe a GroupViT with both its halves."
        ) from error
    tensors = read_tensors(weight_file)
    # Old files hold the numbers of the positions as well.
    tensors = {k: t for k, t in tensors.items() if not k.endswith(".position_ids")}
    load_tensors(model, tensors, source=str(weight_file))
    return GroupVit(model, view, name=_shown(name), origin=_shown(weights or name), device=device)


def _files(source: str, weights: str | None) -> tuple[Path, Path]:
    """Return the configuration and the weights in a folder or a repository."""
    folder = Path(weights or source)
    if weights is not None or folder.is_dir():
        for name in WEIGHT_NAMES:
            if (folder / name).is_file() and (folder / _CONFIG).is_file():
                return folder / _CONFIG, folder / name
        raise ArtifactError(
            f"{folder} is no GroupViT as transformers saves it.",
            f"Give a folder with {_CONFIG} and {WEIGHT_NAMES[0]}.",
        )
    try:
        return fetch_file(source, (_CONFIG,)), fetch_file(source, WEIGHT_NAMES)
    except ArtifactError as error:
        raise ArtifactError(
            error.message,
            f"With a connection, run: hf download {source}. Or give a folder with {_CONFIG} and "
            f"{WEIGHT_NAMES[0]} with --set weights=FOLDER.",
        ) from error


def _shown(name: str) -> str:
    """Return a repository as it is, and of a folder its name."""
    return Path(name).name if Path(name).is_dir() else name
