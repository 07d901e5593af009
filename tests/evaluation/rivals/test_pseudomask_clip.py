"""Baseline B1, against CLIP asked for one masked image after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sseg_core.config import PseudomaskConfig
from sseg_core.evaluation.rivals.open_clip_model import ClipName, OpenClip, clip_of
from sseg_core.evaluation.rivals.oracle import square_images
from sseg_core.evaluation.rivals.pseudomask_clip import PseudoMaskClip, stretched
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.pseudomask.generator import PseudoMaskGenerator

CPU = torch.device("cpu")
CONFIG = PseudomaskConfig(features="lab", masks=5, image_size=64, grid=16)
WORDS = Vocabulary.of(
    ("cat", "dog", "tree"), synonyms={"dog": ("dog", "puppy")}, background=("sky",)
)


@pytest.fixture(scope="module")
def clip(clip_config: dict[str, Any], clip_file: Path) -> OpenClip:
    """A small CLIP with random weights."""
    return clip_of(clip_config, clip_file, (0.5, 0.4, 0.3), (0.25, 0.25, 0.25))


def _rival(clip: OpenClip, **view: Any) -> PseudoMaskClip:
    name = ClipName("ViT-L-14", "openai")
    return PseudoMaskClip(name, clip, CONFIG, View(**view), weights=None, device=CPU)


@torch.inference_mode()
def test_each_segment_gets_the_label_of_its_masked_image(
    clip: OpenClip, photo: Callable[..., Any]
) -> None:
    """Everything else is painted in CLIP's mean colour before CLIP sees it."""
    import open_clip

    image = photo(40, 56)
    (prediction,) = _rival(clip, templates=("{}",)).segment([image], WORDS)
    generator = PseudoMaskGenerator(CONFIG, CPU)
    segments = generator(square_images([image], 64, CPU), [""])[0].long()
    texts = F.normalize(clip.encode_text(open_clip.tokenize(list(WORDS.words))), dim=1)
    small = square_images([image], 32, CPU)[0]
    mean_colour = torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)
    small_ids, ids = stretched(segments, (32, 32)), stretched(segments, (40, 56)).numpy()
    assert prediction.confidence is not None
    for segment in range(int(segments.max()) + 1):
        masked = torch.where(small_ids == segment, small, mean_colour)
        feature = F.normalize(clip.encode_image(clip.normalise(masked)[None]), dim=1)
        probabilities = (clip.logit_scale * feature @ texts.T).softmax(dim=1)[0]
        expected = WORDS.classes[int(probabilities.argmax())]
        assert set(prediction.label_map[ids == segment].tolist()) == {expected}
        found = prediction.confidence[ids == segment]
        np.testing.assert_allclose(found, float(probabilities.max()), rtol=1e-4)


def test_images_keep_their_own_sizes(clip: OpenClip, photo: Callable[..., Any]) -> None:
    """A batch of several sizes gives what each image gives alone."""
    rival = _rival(clip)
    images = [photo(40, 60, 1), photo(64, 33, 2), photo(90, 20, 3)]
    for image, prediction in zip(images, rival.segment(images, WORDS), strict=True):
        (alone,) = rival.segment([image], WORDS)
        assert prediction.label_map.shape == image.shape[:2]
        assert np.array_equal(prediction.label_map, alone.label_map)


def test_clip_sees_the_size_that_it_learned_whatever_the_protocol_says(clip: OpenClip) -> None:
    """The view says so, and the notes name the segments and the weights."""
    rival = _rival(clip, short_side=448, window=448, stride=224)
    assert (rival.view.short_side, rival.view.window, rival.view.stride) == (32, 0, 0)
    assert rival.reference == "pseudomask-clip:ViT-L-14"
    assert rival.notes[0] == "Up to 5 segments of lab, kmeans"
    assert "ViT-L-14 of CLIP with openai weights" in rival.notes[1]


def test_pixels_without_a_segment_are_background(
    clip: OpenClip, photo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The generator gives up on an image whose features are not finite; others go on."""
    rival = _rival(clip)
    segments = torch.tensor([[0, 255], [255, 1]]).to(torch.uint8)
    maps = torch.stack([segments, torch.full_like(segments, 255)])
    monkeypatch.setattr(rival, "_generator", lambda *_: maps)
    some, none = rival.segment([photo(8, 8, 1), photo(6, 4, 2)], Vocabulary.of(("cat",)))
    assert (none.label_map == -1).all()
    assert (some.label_map[:4, :4] == 0).all()
    assert (some.label_map[4:, :4] == -1).all()


def test_cells_are_stretched_by_the_centres_of_pixels() -> None:
    """As nearest-exact interpolation does."""
    cells = torch.arange(12).view(3, 4)
    for size in ((7, 9), (3, 4), (2, 3), (30, 40)):
        expected = F.interpolate(cells[None, None].double(), size, mode="nearest-exact")[0, 0]
        assert torch.equal(stretched(cells, size), expected.long())
