"""GroupViT's segmentation, against transformers' model and the authors' procedure step by step."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import GroupViTConfig, GroupViTModel

from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation.rivals.groupvit import GroupVit, open_groupvit, word_scores
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.text.tokenizer import Tokenizer

CPU = torch.device("cpu")
SIZE, PATCH, GROUPS = 32, 4, 6
NAMES = ("cat", "dog", "tree", "car", "boat", "person", "sofa", "bird")
WORDS = Vocabulary.of(NAMES)


@pytest.fixture(scope="module")
def model() -> Any:
    """A small GroupViT with weights that group decidedly."""
    torch.manual_seed(0)
    vision = {
        "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64,
        "depths": [1, 1, 1], "num_hidden_layers": 3, "image_size": SIZE, "patch_size": PATCH,
        "num_group_tokens": [9, GROUPS, 0], "num_output_groups": [9, GROUPS, 0],
    }  # fmt: skip
    text = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 49408,
        "intermediate_size": 32, "max_position_embeddings": 77,
    }  # fmt: skip
    config = GroupViTConfig(
        vision_config=vision, text_config=text, projection_dim=16, projection_intermediate_dim=32
    )
    whole = GroupViTModel(config).eval()
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            if parameter.ndim == 2 or "token" in name:
                parameter.normal_(0, 0.5)
    return whole


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    """The model as transformers saves it."""
    model.save_pretrained(tmp_path / "small-groupvit")
    return tmp_path / "small-groupvit"


def _rival(model: Any, **view: Any) -> GroupVit:
    return GroupVit(model, View(**view), name="x/y", origin="x/y", device=CPU)


def _ids() -> Tensor:
    return torch.from_numpy(Tokenizer(77)([f"a photo of a {name}." for name in NAMES]))


@torch.no_grad()
def test_groups_and_memberships_are_those_of_transformers(model: Any) -> None:
    """Put together they give the segmentation logits and the logits of the whole image."""
    images = torch.rand(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    normalised = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    output = model(input_ids=_ids(), pixel_values=normalised, output_segmentation=True)
    grouping = _rival(model).group(images)
    assert grouping.memberships.shape == (2, GROUPS, SIZE // PATCH, SIZE // PATCH)
    scale = model.logit_scale.exp()
    torch.testing.assert_close(
        scale * grouping.windows @ output.text_embeds.T, output.logits_per_image
    )
    pixels = F.interpolate(grouping.memberships, (SIZE, SIZE), mode="bilinear")
    logits = torch.einsum("ngd,td,nghw->nthw", grouping.groups, output.text_embeds, pixels)
    torch.testing.assert_close(
        scale * scale * logits, output.segmentation_logits, rtol=1e-4, atol=1e-3
    )


@torch.no_grad()
def test_words_are_encoded_as_transformers_does(model: Any) -> None:
    """With our tokenizer, whose ids are CLIP's, and the usual template."""
    rival = _rival(model)
    features = rival._texts.features(NAMES, rival.view)
    images = torch.zeros(1, 3, SIZE, SIZE)
    output = model(input_ids=_ids(), pixel_values=images)
    torch.testing.assert_close(features, output.text_embeds, rtol=1e-4, atol=1e-5)


def _authors(rival: GroupVit, image: Any, threshold: float) -> np.ndarray[Any, Any]:
    """Return the label map of one window of the size of the image, as the authors' code makes it.

    Background is 0 there and -1 here.
    """
    grouping = rival.group(torch.from_numpy(image).permute(2, 0, 1)[None] / 255)
    texts = rival._texts.features(NAMES, rival.view)
    scale = min(float(rival._model.logit_scale.detach().exp()), 100.0)
    soft = F.interpolate(grouping.memberships, image.shape[:2], mode="bilinear")[0]
    hard = F.one_hot(soft.argmax(dim=0), GROUPS).float()  # [H, W, G]
    affinity = grouping.groups[0] @ texts.T * scale
    before = affinity.softmax(dim=1)
    average = (grouping.windows @ texts.T * scale).softmax(dim=1)
    allowed = torch.zeros(len(NAMES), dtype=torch.bool)
    allowed[average.topk(5).indices[0]] = True
    affinity[:, ~allowed] = float("-inf")
    affinity = affinity.softmax(dim=1) * before
    scores = torch.zeros(len(NAMES) + 1, *image.shape[:2])
    scores[1:] = (hard @ affinity).permute(2, 0, 1)
    limit = min(threshold, affinity.max().item())
    scores[0, (hard @ affinity).max(dim=2).values < limit] = 1
    return scores.argmax(dim=0).numpy() - 1


@torch.inference_mode()
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.95, 1.0])
def test_labels_and_threshold_are_the_authors(
    threshold: float, model: Any, photo: Callable[..., Any]
) -> None:
    """The confidence tells the background that their rule finds, at any threshold."""
    rival = _rival(model, short_side=SIZE, logit_scale=None)
    image = photo(SIZE, SIZE)
    (prediction,) = rival.segment([image], WORDS)
    assert prediction.confidence is not None
    labels = np.where(prediction.confidence < threshold, -1, prediction.label_map)
    np.testing.assert_array_equal(labels, _authors(rival, image, threshold))
    assert prediction.confidence.max() == 1
    assert len(np.unique(prediction.label_map)) > 1


@torch.inference_mode()
def test_only_the_five_words_that_suit_the_window_take_part(model: Any) -> None:
    """All others get 0; with fewer words all do."""
    rival = _rival(model)
    grouping = rival.group(torch.rand(3, 3, SIZE, SIZE))
    texts = rival._texts.features(NAMES, rival.view)
    scores = word_scores(grouping, texts, 10.0)
    assert ((scores > 0).any(dim=1).sum(dim=1) == 5).all()
    assert (scores.sum(dim=2) <= 1).all()
    few = word_scores(grouping, texts[:1], 10.0)
    torch.testing.assert_close(few, torch.ones(3, GROUPS, 1))


def test_windows_and_sizes(model: Any, photo: Callable[..., Any]) -> None:
    """Images of several sizes, in windows, in their own size and independent of each other."""
    rival = _rival(model, short_side=SIZE, window=SIZE, stride=SIZE // 2)
    images = [photo(40, 70, 1), photo(90, 33, 2), photo(32, 32, 3)]
    for image, prediction in zip(images, rival.segment(images, WORDS), strict=True):
        (alone,) = rival.segment([image], WORDS)
        assert prediction.label_map.shape == image.shape[:2]
        assert np.array_equal(prediction.label_map, alone.label_map)
        assert prediction.confidence is not None
        assert 0 <= prediction.confidence.min() <= prediction.confidence.max() <= 1 + 1e-6
    (whole,) = _rival(model, short_side=38).segment([photo(38, 51)], WORDS)  # no whole patches
    assert whole.label_map.shape == (38, 51)


def test_synonyms_and_words_for_background(model: Any, photo: Callable[..., Any]) -> None:
    """What a word stands for is decided after the best word."""
    image = photo(SIZE, SIZE)
    rival = _rival(model, short_side=SIZE)
    (words,) = rival.segment([image], WORDS)
    renamed = Vocabulary(NAMES, (0, 0, 1, 1, -1, -1, 2, 2), ("a", "b", "c"))
    (classes,) = rival.segment([image], renamed)
    assert np.array_equal(classes.label_map, renamed.class_map(words.label_map))


def test_small_classes_and_colours_are_followed(model: Any, photo: Callable[..., Any]) -> None:
    """As any model does: a rare class gives way, and labels change where colours say so."""
    image = photo(SIZE, 2 * SIZE, 5)
    (plain,) = _rival(model, short_side=SIZE).segment([image], WORDS)
    labels, pixels = np.unique(plain.label_map, return_counts=True)
    assert len(labels) > 1
    share = float(pixels.max() / pixels.sum()) - 0.01
    (large,) = _rival(model, short_side=SIZE, min_share=share).segment([image], WORDS)
    winner = labels[pixels.argmax()]
    assert (large.label_map[plain.label_map == winner] == winner).all()
    assert set(np.unique(large.label_map)) <= {-1, winner}
    (refined,) = _rival(model, short_side=SIZE, refine="pamr").segment([image], WORDS)
    assert set(np.unique(refined.label_map)) <= set(labels)
    assert not np.array_equal(refined.label_map, plain.label_map)
    assert refined.confidence is not None
    assert refined.confidence.max() <= 1 + 1e-6


def test_it_opens_from_a_folder_and_from_the_hubs_cache(
    model: Any, folder: Path, tmp_path: Path, photo: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By path, as local weights of the default, and cached under the paper's repository."""
    image = photo(SIZE, SIZE)
    view = View(short_side=SIZE)
    expected = GroupVit(model, view, name="", origin="", device=CPU).segment([image], WORDS)[0]
    repository = "nvidia/groupvit-gcc-redcaps"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ArtifactError, match=repository) as error:
        open_groupvit("", None, view, CPU)
    assert f"hf download {repository}" in error.value.hint
    assert "--set weights=FOLDER" in error.value.hint
    root = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs/main").write_text("abc")
    (root / "snapshots/abc").mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (root / "snapshots/abc" / file).write_bytes((folder / file).read_bytes())
    opened = {
        "groupvit": open_groupvit("", None, view, CPU),
        "groupvit:small-groupvit": open_groupvit(str(folder), None, view, CPU),
        "groupvit:nvidia/groupvit-gcc-yfcc": open_groupvit(
            "nvidia/groupvit-gcc-yfcc", str(folder), view, CPU
        ),
    }
    for reference, rival in opened.items():
        assert rival.reference == reference
        assert np.array_equal(rival.segment([image], WORDS)[0].label_map, expected.label_map)
    assert "small-groupvit" in opened["groupvit:nvidia/groupvit-gcc-yfcc"].notes[0]


def test_what_is_no_groupvit_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder, another kind of model, and no transformers."""
    with pytest.raises(ArtifactError, match="no GroupViT as transformers saves it"):
        open_groupvit("", str(tmp_path / "nowhere"), View(), CPU)
    (folder / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(ArtifactError, match="does not describe a GroupViT"):
        open_groupvit(str(folder), None, View(), CPU)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigError, match="needs the transformers library") as error:
        open_groupvit("", None, View(), CPU)
    assert "sseg[rivals]" in error.value.hint
