"""Mask logits and class probabilities become a class per pixel."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from sseg_core.inference import combine
from sseg_core.inference.combine import (
    BACKGROUND,
    BestClasses,
    MaskGrid,
    best_classes,
    class_probabilities,
    class_scores,
    label_map,
)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _logits(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return 4 * torch.randn(*shape, generator=generator)


def test_class_probabilities_are_a_softmax_of_scaled_cosines() -> None:
    """A mask whose embedding is a class's text has e^s / (e^s + 1) of it against an orthogonal."""
    masks = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    texts = torch.eye(2)
    result = class_probabilities(masks, texts, 2.0)
    high = torch.sigmoid(torch.tensor(2.0)).item()
    assert torch.allclose(result, torch.tensor([[[high, 1 - high], [1 - high, high]]]))


def test_scores_equal_maskformers_semantic_inference(generator: torch.Generator) -> None:
    """On the grid itself, P times the sum of the sigmoids is transformers' MaskFormer output."""
    from transformers import MaskFormerImageProcessor

    logits = _logits(generator, 2, 5, 9, 13)
    class_logits = torch.randn(2, 5, 4, generator=generator)
    null = torch.full((2, 5, 1), -torch.inf)  # their "no object" class, which S-Seg has not
    outputs = SimpleNamespace(
        class_queries_logits=torch.cat([class_logits, null], dim=2), masks_queries_logits=logits
    )
    expected = MaskFormerImageProcessor().post_process_semantic_segmentation(
        outputs, target_sizes=[(9, 13)] * 2, return_segmentation_scores=True
    )
    scores = class_scores(logits, class_logits.softmax(-1), (9, 13), MaskGrid((9, 13), 1))
    unnormalised = scores * logits.sigmoid().sum(dim=1, keepdim=True)
    for index, theirs in enumerate(expected):
        assert torch.allclose(unnormalised[index], theirs.segmentation_scores, atol=1e-5)
        assert torch.equal(scores[index].argmax(0), theirs.segmentation)


@pytest.mark.parametrize(("height", "width"), [(36, 52), (33, 50)])
def test_logits_are_upsampled_by_the_stride_and_cropped(
    generator: torch.Generator, height: int, width: int
) -> None:
    """At the input's size the result is that of torch's upsampling by the stride, then a crop."""
    logits = _logits(generator, 1, 3, 9, 13)
    classes = torch.randn(1, 3, 2, generator=generator).softmax(-1)
    masks = F.interpolate(logits, scale_factor=4, mode="bilinear").sigmoid()
    masks = masks[..., :height, :width]
    expected = torch.einsum("bqc,bqyx->bcyx", classes, masks) / masks.sum(1, keepdim=True)
    result = class_scores(logits, classes, (height, width), MaskGrid((height, width), 4))
    assert torch.allclose(result, expected, atol=1e-5)


def test_another_output_size_stretches_the_unpadded_image(generator: torch.Generator) -> None:
    """A result of twice the input's size is torch's upsampling by twice the stride."""
    logits = _logits(generator, 1, 3, 5, 6)
    classes = torch.eye(3)[None]
    masks = F.interpolate(logits, scale_factor=8, mode="bilinear").sigmoid()[..., :36, :44]
    expected = masks / masks.sum(1, keepdim=True)
    result = class_scores(logits, classes, (36, 44), MaskGrid((18, 22), 4))
    assert torch.allclose(result, expected, atol=1e-5)


def test_probabilities_sum_to_one_however_far_the_masks_are() -> None:
    """Logits of -1000 underflow every sigmoid; the nearest mask still decides, without NaN."""
    logits = torch.tensor([-1000.0, -1003.0, -2000.0]).reshape(1, 3, 1, 1)
    scores = class_scores(logits, torch.eye(3)[None], (1, 1), MaskGrid((1, 1), 1)).flatten()
    expected = torch.tensor([0.0, -3.0, -1000.0]).softmax(0)
    assert torch.allclose(scores, expected, atol=1e-6)


def test_the_guard_changes_nothing_where_sigmoids_do_not_underflow() -> None:
    """Between -60 and -40, float64 without any guard gives the same probabilities."""
    logits = torch.linspace(-60, -40, 7).reshape(1, 7, 1, 1)
    scores = class_scores(logits, torch.eye(7)[None], (1, 1), MaskGrid((1, 1), 1)).flatten()
    plain = logits.double().sigmoid().flatten()
    assert torch.allclose(scores.double(), plain / plain.sum(), rtol=1e-5, atol=1e-12)


def test_chunks_do_not_change_the_result(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row at a time gives what all rows at once give, and the best is the scores' argmax."""
    logits = _logits(generator, 2, 4, 6, 7)
    classes = torch.randn(2, 4, 30, generator=generator).softmax(-1)
    arguments = (logits, classes, (23, 27), MaskGrid((24, 28), 4))
    whole = class_scores(*arguments)
    monkeypatch.setattr(combine, "_CHUNK", 1)
    assert torch.allclose(whole, class_scores(*arguments), atol=1e-6)
    best = best_classes(*arguments)
    assert torch.equal(whole.argmax(1), best.classes)
    assert torch.allclose(whole.amax(1), best.probabilities, atol=1e-6)


def test_half_precision_logits_are_combined_in_float32(generator: torch.Generator) -> None:
    """bfloat16 from autocast gives float32 probabilities equal to those of its float32 values."""
    logits = _logits(generator, 1, 4, 3, 3).bfloat16()
    classes = torch.eye(4)[None].bfloat16()
    grid = MaskGrid((12, 12), 4)
    result = class_scores(logits, classes, (12, 12), grid)
    assert result.dtype == torch.float32
    assert torch.equal(result, class_scores(logits.float(), classes.float(), (12, 12), grid))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2)])
def test_any_image_size_is_covered(generator: torch.Generator, size: tuple[int, int]) -> None:
    """Sizes of one pixel or of extreme aspect come out complete and finite."""
    logits = _logits(generator, 1, 2, 3, 5)
    best = best_classes(logits, torch.eye(2)[None], size, MaskGrid((10, 20), 4))
    assert best.classes.shape == (1, *size)
    assert torch.isfinite(best.probabilities).all()


def test_pixels_below_the_threshold_are_background() -> None:
    """The threshold is inclusive: a pixel at it keeps its class; 0 leaves no background."""
    best = BestClasses(
        torch.tensor([[[2, 1, 0]]], dtype=torch.int16), torch.tensor([[[0.75, 0.5, 0.25]]])
    )
    assert label_map(best, 0.5).tolist() == [[[2, 1, BACKGROUND]]]
    assert label_map(best, 0.0).tolist() == [[[2, 1, 0]]]
    assert label_map(best, 0.5).dtype == torch.int16
