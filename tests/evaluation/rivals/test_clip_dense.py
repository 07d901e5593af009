"""CLIP and MaskCLIP as rivals, against the same computed at full size without any chunk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sseg_core.evaluation.rivals.clip_dense import VARIANTS, DenseClip
from sseg_core.evaluation.rivals.open_clip_model import ClipName, OpenClip, clip_of
from sseg_core.inference import cell_maps
from sseg_core.inference.cell_maps import CellMaps
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import window_boxes

CPU = torch.device("cpu")
NAME = ClipName("ViT-B-16", "openai")
WORDS = Vocabulary.of(
    ("cat", "dog", "tree"), synonyms={"dog": ("dog", "puppy")}, background=("sky",)
)


@pytest.fixture(scope="module")
def clip(clip_config: dict[str, Any], clip_file: Path) -> OpenClip:
    """A small CLIP with random weights."""
    return clip_of(clip_config, clip_file, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def _rival(clip: OpenClip, kind: str = "maskclip", **view: Any) -> DenseClip:
    return DenseClip(kind, NAME, clip, View(**view), weights=None, device=CPU)


def _expected(
    clip: OpenClip, kind: str, image: Any, words: tuple[str, ...], view: View
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return best word and probability of each pixel of an image that is shown as it is."""
    import open_clip

    assert view.templates is not None
    assert view.window is not None
    texts = []
    for word in words:
        ids = open_clip.tokenize([template.replace("{}", word) for template in view.templates])
        texts.append(F.normalize(F.normalize(clip.encode_text(ids), dim=1).mean(0), dim=0))
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    total = torch.zeros(len(words), *image.shape[:2])
    count = torch.zeros(image.shape[:2])
    for box in window_boxes(image.shape[:2], view.window, view.stride or 0):
        place = (slice(box.top, box.bottom), slice(box.left, box.right))
        tokens = clip.tokens(clip.normalise(pixels[:, :, *place]), VARIANTS[kind].tokens)
        cosines = F.normalize(tokens[0], dim=2) @ torch.stack(texts).T
        padded = (8 * cosines.shape[0], 8 * cosines.shape[1])
        full = F.interpolate(cosines.permute(2, 0, 1)[None], padded, mode="bilinear")[0]
        total[:, *place] += full[:, : box.height, : box.width]
        count[place] += 1
    assert view.logit_scale is not None
    probabilities = (view.logit_scale * total / count).softmax(0)
    confidence, best = probabilities.max(0)
    return best.numpy(), confidence.numpy()


@torch.inference_mode()
@pytest.mark.parametrize("kind", sorted(VARIANTS))
@pytest.mark.parametrize("window", [0, 32])
def test_labels_are_those_of_the_whole_computation(
    kind: str, window: int, clip: OpenClip, photo: Callable[..., Any]
) -> None:
    """Cosines interpolated, averaged over windows, then the softmax over all words."""
    image = photo(40, 52)
    rival = _rival(clip, kind, short_side=40, window=window, articles=False)
    best, confidence = _expected(clip, kind, image, WORDS.words, rival.view)
    (prediction,) = rival.segment([image], WORDS)
    assert prediction.confidence is not None
    np.testing.assert_allclose(prediction.confidence, confidence, rtol=1e-3, atol=1e-5)
    labels = WORDS.class_map(best)
    assert (prediction.label_map == labels).mean() > 0.999
    assert len(np.unique(labels)) > 1  # it is about something


def test_the_kinds_differ_and_say_what_they_are(clip: OpenClip, photo: Callable[..., Any]) -> None:
    """Each has its own tokens, its own texts and a note."""
    image = photo(48, 48)
    rivals = [_rival(clip, kind, short_side=48) for kind in VARIANTS]
    maps = [rival.segment([image], WORDS)[0].confidence for rival in rivals]
    assert not any(np.allclose(maps[i], maps[j], atol=1e-4) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert [r.reference for r in rivals] == [f"{kind}:ViT-B-16" for kind in VARIANTS]
    assert [len(r.view.templates or ()) for r in rivals] == [1, 85, 1]
    assert all("ViT-B-16 of CLIP with openai weights" in r.notes[1] for r in rivals)
    local = DenseClip("clip", NAME, clip, View(), weights="/some/where/my.pt", device=CPU)
    assert "my.pt" in local.notes[1]
    assert "/some/where" not in local.notes[1]


def test_an_image_does_not_depend_on_those_beside_it(
    clip: OpenClip, photo: Callable[..., Any]
) -> None:
    """Images of several sizes in one call, each in its own size, the same as alone."""
    images = [photo(40, 60, 1), photo(64, 33, 2), photo(7, 90, 3), photo(40, 60, 4)]
    rival = _rival(clip, short_side=32, window=32, stride=16)
    together = rival.segment(images, WORDS)
    for image, prediction in zip(images, together, strict=True):
        (alone,) = rival.segment([image], WORDS)
        assert prediction.label_map.shape == image.shape[:2]
        assert np.array_equal(prediction.label_map, alone.label_map)
        assert prediction.confidence is not None
        assert np.array_equal(prediction.confidence, alone.confidence)


def test_one_word_is_certain(clip: OpenClip, photo: Callable[..., Any]) -> None:
    """There is nothing else that a pixel could be."""
    (prediction,) = _rival(clip, short_side=32).segment([photo(32, 40)], Vocabulary.of(("cat",)))
    assert (prediction.label_map == 0).all()
    np.testing.assert_allclose(prediction.confidence, 1)


def test_the_scale_of_the_protocol_replaces_the_models_own(
    clip: OpenClip, photo: Callable[..., Any]
) -> None:
    """It changes the confidence and never the best word."""
    image = photo(48, 40)
    low, own = (
        _rival(clip, short_side=48, logit_scale=scale).segment([image], WORDS)[0]
        for scale in (2.0, None)
    )
    assert np.array_equal(low.label_map, own.label_map)
    assert low.confidence is not None
    assert own.confidence is not None
    assert low.confidence.mean() < own.confidence.mean() - 0.05


def test_a_thousand_words_are_never_held_at_the_size_of_the_photo(
    clip: OpenClip, photo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The largest tensor of a big photo is a block of it; the labels do not depend on its size."""
    vocabulary = Vocabulary.of(tuple(f"thing {i}" for i in range(1103)))
    image = photo(96, 128)
    rival = _rival(clip, "clip", short_side=48)
    monkeypatch.setitem(cell_maps._FLOATS, "cpu", 1 << 26)
    (whole,) = rival.segment([image], vocabulary)
    monkeypatch.setitem(cell_maps._FLOATS, "cpu", 1 << 17)
    largest = 0
    blocks = CellMaps.blocks

    def watched(self: CellMaps, size: tuple[int, int]) -> Any:
        nonlocal largest
        for box, block in blocks(self, size):
            largest = max(largest, block.numel())
            yield box, block

    monkeypatch.setattr(CellMaps, "blocks", watched)
    (chunked,) = rival.segment([image], vocabulary)
    assert 0 < largest <= 1 << 17  # of 13 million scores
    assert np.array_equal(chunked.label_map, whole.label_map)


def test_words_are_encoded_once_and_kept(
    clip: OpenClip, photo: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second run of another process finds them on disk; other weights do not."""
    asked: list[int] = []
    encode = clip.encode_text
    monkeypatch.setattr(clip, "encode_text", lambda ids: asked.append(len(ids)) or encode(ids))
    image = photo(32, 32)
    first = _rival(clip, "clip", short_side=32)
    first.segment([image], WORDS)
    first.segment([image], WORDS)
    _rival(clip, "clip-output", short_side=32).segment([image], WORDS)
    assert asked == [5]
    monkeypatch.setattr(clip, "text_tensors", lambda: {"other": torch.zeros(1)})
    _rival(clip, "clip", short_side=32).segment([image], WORDS)
    assert asked == [5, 5]
