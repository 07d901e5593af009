"""Mask logits and class probabilities become a class per pixel."""

from __future__ import annotations

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from sseg_core.inference import mask_weights
from sseg_core.inference.combine import (
    MaskGrid,
    best_classes,
    best_of_windows,
    class_probabilities,
    class_scores,
)
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.windows import Box, Window, window_boxes


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _logits(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return 4 * torch.randn(*shape, generator=generator)


def _whole(
    logits: torch.Tensor, classes: torch.Tensor, size: tuple[int, int], grid: MaskGrid
) -> torch.Tensor:
    """The scores of a batch of images that were seen whole, [B, C, H, W]."""
    window = Window(Box(0, 0, *grid.input_size), grid.input_size)
    return torch.stack(
        [
            class_scores([WindowMasks(*masks, window, grid.stride)], size)
            for masks in zip(logits, classes, strict=True)
        ]
    )


def _windows(
    generator: torch.Generator,
    input_size: tuple[int, int],
    window: int,
    step: int,
    *,
    stride: int = 4,
    queries: int = 5,
    classes: int = 40,
) -> list[WindowMasks]:
    """Random masks in windows, each with classes of its own."""
    return [
        WindowMasks(
            _logits(generator, queries, -(-box.height // stride), -(-box.width // stride)),
            (3 * torch.randn(queries, classes, generator=generator)).softmax(dim=-1),
            Window(box, input_size),
            stride,
        )
        for box in window_boxes(input_size, window, step)
    ]


def _materialised(windows: list[WindowMasks], size: tuple[int, int]) -> torch.Tensor:
    """All scores of all windows at all pixels, summed and divided, in float64: [C, H, W]."""
    H, W = size
    input_size = windows[0].window.shown_size
    y = (torch.arange(H, dtype=torch.float64) + 0.5) * input_size[0] / H
    x = (torch.arange(W, dtype=torch.float64) + 0.5) * input_size[1] / W
    total = torch.zeros(windows[0].class_probabilities.shape[1], H, W, dtype=torch.float64)
    count = torch.zeros(H, W, dtype=torch.float64)
    for window in windows:
        box, (_, h, w) = window.window.box, window.values.shape
        rows = ((y >= box.top) & (y < box.bottom)).nonzero().flatten()
        columns = ((x >= box.left) & (x < box.right)).nonzero().flatten()
        if not (len(rows) and len(columns)):
            continue
        # Cell centres in [-1, 1], as grid_sample takes them.
        grid_y = (y[rows] - box.top) / (window.stride * h) * 2 - 1
        grid_x = (x[columns] - box.left) / (window.stride * w) * 2 - 1
        grid = torch.stack(torch.meshgrid(grid_x, grid_y, indexing="xy"), dim=-1)[None]
        values = F.grid_sample(
            window.values.double()[None], grid, padding_mode="border", align_corners=False
        )[0]
        masks = values if window.are_weights else values.sigmoid()
        masks = masks / masks.sum(dim=0)
        scores = torch.einsum("qc,qyx->cyx", window.class_probabilities.double(), masks)
        total[:, rows[:, None], columns] += scores
        count[rows[:, None], columns] += 1
    return total / count


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
    scores = _whole(logits, class_logits.softmax(-1), (9, 13), MaskGrid((9, 13), 1))
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
    result = _whole(logits, classes, (height, width), MaskGrid((height, width), 4))
    assert torch.allclose(result, expected, atol=1e-5)


def test_another_output_size_stretches_the_unpadded_image(generator: torch.Generator) -> None:
    """A result of twice the input's size is torch's upsampling by twice the stride."""
    logits = _logits(generator, 1, 3, 5, 6)
    classes = torch.eye(3)[None]
    masks = F.interpolate(logits, scale_factor=8, mode="bilinear").sigmoid()[..., :36, :44]
    expected = masks / masks.sum(1, keepdim=True)
    result = _whole(logits, classes, (36, 44), MaskGrid((18, 22), 4))
    assert torch.allclose(result, expected, atol=1e-5)


def test_probabilities_sum_to_one_however_far_the_masks_are() -> None:
    """Logits of -1000 underflow every sigmoid; the nearest mask still decides, without NaN."""
    logits = torch.tensor([-1000.0, -1003.0, -2000.0]).reshape(1, 3, 1, 1)
    scores = _whole(logits, torch.eye(3)[None], (1, 1), MaskGrid((1, 1), 1)).flatten()
    expected = torch.tensor([0.0, -3.0, -1000.0]).softmax(0)
    assert torch.allclose(scores, expected, atol=1e-6)


def test_the_guard_changes_nothing_where_sigmoids_do_not_underflow() -> None:
    """Between -60 and -40, float64 without any guard gives the same probabilities."""
    logits = torch.linspace(-60, -40, 7).reshape(1, 7, 1, 1)
    scores = _whole(logits, torch.eye(7)[None], (1, 1), MaskGrid((1, 1), 1)).flatten()
    plain = logits.double().sigmoid().flatten()
    assert torch.allclose(scores.double(), plain / plain.sum(), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("num_classes", [1, 30, 90])
def test_blocks_do_not_change_the_result(
    generator: torch.Generator, monkeypatch: pytest.MonkeyPatch, num_classes: int
) -> None:
    """One tile at a time gives what large blocks give, and the best is the scores' argmax."""
    logits = _logits(generator, 2, 4, 6, 7)
    classes = torch.randn(2, 4, num_classes, generator=generator).softmax(-1)
    arguments = (logits, classes, (53, 77), MaskGrid((24, 28), 4))
    whole = _whole(*arguments)
    monkeypatch.setattr(mask_weights, "_BLOCK", 1)
    assert torch.allclose(whole, _whole(*arguments), atol=1e-6)
    best = best_classes(*arguments)
    assert torch.equal(whole.argmax(1), best.classes)
    assert torch.allclose(whole.amax(1), best.probabilities, atol=1e-6)


@pytest.mark.parametrize(
    ("input_size", "window", "step", "size"),
    [
        ((32, 48), 16, 8, (32, 48)),  # on the pixels of the input
        ((32, 45), 24, 10, (75, 120)),  # enlarged; the last windows are flush with the border
        ((40, 30), 20, 20, (37, 11)),  # made smaller; no overlap but by the border
        ((33, 47), 17, 5, (50, 64)),  # up to sixteen windows at a pixel, cells that stick out
        ((20, 30), 64, 32, (41, 59)),  # one window, smaller than it should be
        ((16, 64), 16, 8, (3, 5)),  # a result with fewer pixels than windows
    ],
)
@pytest.mark.parametrize("num_classes", [3, 60])
def test_windows_are_averaged_as_in_full(
    generator: torch.Generator,
    input_size: tuple[int, int],
    window: int,
    step: int,
    size: tuple[int, int],
    num_classes: int,
) -> None:
    """Scores and label maps are those of materialising every window in float64."""
    windows = _windows(generator, input_size, window, step, classes=num_classes)
    expected = _materialised(windows, size)
    scores = class_scores(windows, size)
    torch.testing.assert_close(scores.double(), expected, atol=2e-6, rtol=1e-5)
    best = best_of_windows(windows, size)
    assert torch.equal(best.classes.long(), expected.argmax(dim=0))
    torch.testing.assert_close(
        best.probabilities.double(), expected.amax(dim=0), atol=2e-6, rtol=1e-5
    )


def test_two_windows_side_by_side_do_not_mix(generator: torch.Generator) -> None:
    """Where windows do not overlap, each half is the result of its window alone."""
    left, right = _windows(generator, (16, 32), 16, 16)
    both = best_of_windows([left, right], (64, 128))
    for half, window in ((slice(0, 64), left), (slice(64, 128), right)):
        whole = Window(Box(0, 0, 16, 16), (16, 16))
        alone = WindowMasks(window.values, window.class_probabilities, whole, 4)
        expected = best_of_windows([alone], (64, 64))
        assert torch.equal(both.classes[:, half], expected.classes)
        torch.testing.assert_close(both.probabilities[:, half], expected.probabilities)


def test_weights_in_the_place_of_logits_are_interpolated_as_they_are(
    generator: torch.Generator,
) -> None:
    """Refined weights go through no sigmoid; their interpolation still sums to 1."""
    [window] = _windows(generator, (20, 24), 0, 0)
    weights = window.values.softmax(dim=0)
    refined = WindowMasks(weights, window.class_probabilities, window.window, 4, are_weights=True)
    scores = class_scores([refined], (61, 50))
    expected = _materialised([refined], (61, 50))
    torch.testing.assert_close(scores.double(), expected, atol=2e-6, rtol=1e-5)
    assert torch.allclose(scores.sum(dim=0), torch.ones(61, 50), atol=1e-5)


def test_an_image_of_a_batch_is_what_it_is_alone(generator: torch.Generator) -> None:
    """Three images at once and one by one give the same labels and probabilities."""
    logits = _logits(generator, 3, 6, 8, 9)
    classes = torch.randn(3, 6, 50, generator=generator).softmax(-1)
    grid = MaskGrid((30, 36), 4)
    together = best_classes(logits, classes, (64, 70), grid)
    for index in range(3):
        one = slice(index, index + 1)
        alone = best_classes(logits[one], classes[one], (64, 70), grid)
        assert torch.equal(alone.classes[0], together.classes[index])
        assert torch.equal(alone.probabilities[0], together.probabilities[index])


def test_half_precision_logits_are_combined_in_float32(generator: torch.Generator) -> None:
    """bfloat16 from autocast gives float32 probabilities equal to those of its float32 values."""
    logits = _logits(generator, 1, 4, 3, 3).bfloat16()
    classes = torch.eye(4)[None].bfloat16()
    grid = MaskGrid((12, 12), 4)
    result = _whole(logits, classes, (12, 12), grid)
    assert result.dtype == torch.float32
    assert torch.equal(result, _whole(logits.float(), classes.float(), (12, 12), grid))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (300, 2)])
def test_any_image_size_is_covered(generator: torch.Generator, size: tuple[int, int]) -> None:
    """Sizes of one pixel or of extreme aspect come out complete and finite."""
    logits = _logits(generator, 1, 2, 3, 5)
    best = best_classes(logits, torch.eye(2)[None], size, MaskGrid((10, 20), 4))
    assert best.classes.shape == (1, *size)
    assert torch.isfinite(best.probabilities).all()


_MEASURE = """
import json, resource, sys
import torch
from sseg_core.inference.combine import MaskGrid, best_classes

torch.set_num_threads(1)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
num_classes = int(sys.argv[1])
generator = torch.Generator().manual_seed(0)
grid = MaskGrid((448, 597), 4)
smooth = torch.randn(1, 64, 12, 15, generator=generator)
logits = 6 * torch.nn.functional.interpolate(smooth, (112, 150), mode="bicubic")
classes = (0.01 * torch.randn(1, 64, num_classes, generator=generator)).softmax(-1)
best_classes(logits, classes, (64, 64), grid)  # what is loaded only once
before = peak()
best = best_classes(logits, classes, (1536, 2048), grid)
print(json.dumps([peak() - before, best.classes.unique().numel()]))
"""


def _megabytes(num_classes: int) -> float:
    """How much a fresh process grows while it labels a photo of 2048 x 1536."""
    command = [sys.executable, "-c", _MEASURE, str(num_classes)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes, found = json.loads(result.stdout)
    assert found > 10
    return float(megabytes)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_classes() -> None:
    """1203 classes on 2048 x 1536 need under 200 MB, hardly more than 21 classes do."""
    few, many = _megabytes(21), _megabytes(1203)
    assert many < 200  # the 2 GB that there may be, ten times over
    assert many < few + 100
