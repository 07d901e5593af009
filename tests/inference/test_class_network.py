"""A student's logits become labels as in plain torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sseg_core.errors import ConfigError
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.inference.windows import window_boxes

NAMES = ("cat", "dog", "sky", "grass")
STRIDE = 4
Taught = Callable[..., tuple[Any, Segmenter]]


def _image(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Coarse random colours, so that a student sees more than noise."""
    small = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return small[np.arange(height)[:, None] * 9 // height, np.arange(width) * 12 // width]


def _logits(student: Any, image: np.ndarray, short_side: int) -> Tensor:
    """Return [1, C, h, w] the logits of the whole image at a short side."""
    pixels = torch.from_numpy(at_short_side(image, short_side)).permute(2, 0, 1)[None] / 255
    with torch.inference_mode():
        return student(pixels).logits


def _compare(
    segmenter: Segmenter,
    image: np.ndarray,
    expected: Tensor,
    labels: Sequence[int],
    **options: object,
) -> None:
    """Compare with [C, H, W] probabilities of `labels`, but for ties."""
    vocabulary = options.pop("vocabulary", Vocabulary.of(NAMES))
    [result] = segmenter.segment_batch([image], vocabulary, **options)  # type: ignore[arg-type]
    assert result.label_map.shape == image.shape[:2]
    assert result.label_map.dtype == np.int16
    best = expected.max(dim=0)
    np.testing.assert_allclose(result.probabilities, best.values.numpy(), atol=2e-5)
    top = expected.topk(2, dim=0).values
    is_clear = (top[0] - top[1] > 1e-4).numpy()
    assert is_clear.mean() > 0.95
    wanted = np.array(labels)[best.indices.numpy()]
    assert np.array_equal(result.label_map[is_clear], wanted[is_clear])
    assert len(np.unique(wanted)) > 2


@pytest.mark.parametrize("size", [(50, 70), (40, 56), (123, 172), (21, 30)])
@pytest.mark.parametrize("background", [False, True])
def test_logits_are_stretched_to_the_image_before_the_softmax(
    taught: Taught, size: tuple[int, int], background: bool
) -> None:
    """The whole image in one piece: torch's interpolation, softmax and argmax."""
    (student, segmenter), image = taught(NAMES, background=background), _image(*size)
    logits = _logits(student, image, 40)
    height, width = student.seen[0][2:]
    assert min(height, width) == 40
    # On the pixels of the padded grid; the image is the part that is not padding.
    grid = F.interpolate(logits, scale_factor=STRIDE, mode="bilinear")
    if size == (40, 56):
        expected = grid[0, :, :height, :width].softmax(dim=0)
    else:
        y = (torch.arange(size[0]) + 0.5) * height / size[0] / logits.shape[2] / STRIDE * 2 - 1
        x = (torch.arange(size[1]) + 0.5) * width / size[1] / logits.shape[3] / STRIDE * 2 - 1
        places = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[None].to(logits)
        expected = F.grid_sample(logits, places, padding_mode="border", align_corners=False)
        expected = expected[0].softmax(dim=0)
    labels = (0, 1, 2, 3, -1)[: len(expected)]
    _compare(segmenter, image, expected, labels)


@pytest.mark.parametrize("with_background", [False, True])
def test_some_of_its_classes_may_be_asked_for_in_any_order(
    taught: Taught, with_background: bool
) -> None:
    """The softmax is over these, and background where there is room for it."""
    (student, segmenter), image = taught(NAMES, background=True), _image(50, 70)
    logits = F.interpolate(_logits(student, image, 40), (50, 70), mode="bilinear")[0]
    vocabulary = Vocabulary.of(["grass", "cat"], with_background=with_background)
    channels, labels = ([3, 0, 4], (0, 1, -1)) if with_background else ([3, 0], (0, 1))
    expected = logits[channels].softmax(dim=0)
    [result] = segmenter.segment_batch([image], vocabulary)
    best = expected.max(dim=0)
    np.testing.assert_allclose(result.probabilities, best.values.numpy(), atol=2e-5)
    assert (result.label_map == np.array(labels)[best.indices.numpy()]).mean() > 0.999
    assert (-1 in result.label_map) is with_background


def test_class_probabilities_leave_the_rest_to_background(taught: Taught) -> None:
    """[C, H, W] of the classes alone, in the order they are asked for."""
    (student, segmenter), image = taught(NAMES, background=True), _image(50, 70)
    logits = F.interpolate(_logits(student, image, 40), (50, 70), mode="bilinear")[0]
    expected = logits[[2, 1, 4]].softmax(dim=0)[:2]
    actual = segmenter.class_probabilities(image, ["sky", "dog"])
    np.testing.assert_allclose(actual, expected.numpy(), atol=2e-5)


def test_probabilities_of_windows_are_averaged(taught: Taught) -> None:
    """As mmsegmentation slides, but with probabilities: mean over the windows at each pixel."""
    (student, segmenter), image = taught(NAMES, background=True), _image(40, 63)
    expected, count = torch.zeros(5, 40, 63), torch.zeros(40, 63)
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    for box in window_boxes((40, 63), 26, 11):
        place = (slice(box.top, box.bottom), slice(box.left, box.right))
        with torch.inference_mode():
            logits = student(pixels[..., *place]).logits
        full = F.interpolate(logits, scale_factor=STRIDE, mode="bilinear")[0, :, :26, :26]
        expected[:, *place] += full.softmax(dim=0)
        count[place] += 1
    assert count.max() > 3
    _compare(segmenter, image, expected / count, (0, 1, 2, 3, -1), view=View(window=26, stride=11))


def test_low_probabilities_are_background_besides(taught: Taught) -> None:
    """A threshold works as for words; a pixel of the student's own background stays one."""
    (_, segmenter), image = taught(NAMES, background=True), _image(50, 70)
    plain = segmenter.segment(image, NAMES)
    result = segmenter.segment(image, NAMES, threshold=0.6)
    low = plain.probabilities < 0.6
    assert low.any()
    assert (plain.label_map[~low] == -1).any()
    assert np.array_equal(result.label_map, np.where(low, -1, plain.label_map))
    assert np.array_equal(result.probabilities, plain.probabilities)


def test_small_classes_and_refinement_are_as_for_other_models(taught: Taught) -> None:
    """A class with too few pixels gives them to the others; refined scores follow the colours."""
    (_, segmenter), image = taught(NAMES, background=True), _image(60, 80)
    shares = segmenter.segment(image, NAMES).shares
    least = min(shares, key=lambda name: shares[name])
    share = shares[least] / sum(shares.values())
    [result] = segmenter.segment_batch([image], NAMES, view=View(min_share=share + 1e-3))
    assert shares[least] > 0
    assert result.shares[least] == 0
    [refined] = segmenter.segment_batch([image], NAMES, view=View(refine="pamr"))
    # Within a patch of one colour neighbours agree more than without.
    plain = segmenter.segment(image, NAMES)
    changes = [np.abs(np.diff(r.probabilities, axis=1)).mean() for r in (plain, refined)]
    assert changes[1] < changes[0]


def test_a_batch_gives_what_single_images_give(taught: Taught) -> None:
    """Of several sizes, in their order; images of one size share a pass."""
    student, segmenter = taught(NAMES, background=True)
    images = [_image(40, 50, 1), _image(33, 31, 2), _image(40, 50, 3)]
    together = segmenter.segment_batch(images, NAMES)
    assert [shape[0] for shape in student.seen] == [2, 1]
    for image, result in zip(images, together, strict=True):
        alone = segmenter.segment(image, NAMES)
        np.testing.assert_allclose(result.probabilities, alone.probabilities, atol=1e-5)
        assert (result.label_map == alone.label_map).mean() > 0.999


def test_the_view_has_no_words(taught: Taught) -> None:
    """Its own short side; templates and temperature of a protocol are left out."""
    _, segmenter = taught(NAMES, background=False)
    view = View(templates=("a {}",), articles=False, logit_scale=40.0, min_share=0.1)
    assert segmenter.complete(view) == View(
        short_side=40, window=0, stride=0, min_share=0.1, scales=(1.0,), flip=False
    )
    assert segmenter.template is None
    with pytest.raises(ConfigError, match=r"knows classes, not words: the template 'a \{\}'"):
        segmenter.template = "a {}"


def test_a_class_that_it_was_not_taught_is_refused_before_any_work(taught: Taught) -> None:
    """By `check`, and when an image is segmented; not with an answer that cannot be right."""
    student, segmenter = taught(NAMES, background=False)
    segmenter.check(["SKY", "dog"])
    for call in (
        lambda: segmenter.check(["sky", "tiger"]),
        lambda: segmenter.segment(_image(8, 8), ["sky", "tiger"]),
    ):
        with pytest.raises(ConfigError, match="The student knows 4 classes, and 'tiger' is none"):
            call()
    assert student.seen == []


def test_students_and_models_of_words_say_what_they_are(taught: Taught) -> None:
    """Which classes, and whether they know background."""
    _, segmenter = taught(NAMES, background=True)
    assert (segmenter.class_names, segmenter.tells_background) == (NAMES, True)
    assert not taught(NAMES, background=False)[1].tells_background


_MEASURE = """
import json, resource, sys
import numpy as np
import torch
from sseg_core.config import StudentConfig, UperNetConfig
from sseg_core.inference.class_network import ClassNetwork
from sseg_core.inference.segmenter import Segmenter
from sseg_core.structures import ClassLogits

class Student(torch.nn.Conv2d):
    def forward(self, images):
        return ClassLogits(super().forward(images), None, 8)

torch.set_num_threads(1)
torch.manual_seed(0)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
names = [f"thing {i}" for i in range(int(sys.argv[1]))]
config = StudentConfig(model=UperNetConfig(class_names=names, has_background=True))
student = Student(3, len(names) + 1, 8, 8)
torch.nn.init.normal_(student.weight)
segmenter = Segmenter(ClassNetwork(student, config))
image = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
image = image.repeat(128, axis=0).repeat(128, axis=1)
segmenter.segment(image[:64, :64], names)  # what is loaded only once
before = peak()
result = segmenter.segment(image, names, image_size=128)
print(json.dumps([peak() - before, int(np.unique(result.label_map).size)]))
"""


def _megabytes(num_classes: int) -> float:
    """How much a fresh process grows while a student labels a photo of 2048 x 1536."""
    command = [sys.executable, "-c", _MEASURE, str(num_classes)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    megabytes, found = json.loads(result.stdout)
    assert found > 3
    return float(megabytes)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_classes() -> None:
    """1203 classes on 2048 x 1536 would be 15 GB of scores; the logits are 2 MB."""
    few, many = _megabytes(21), _megabytes(1203)
    assert many < few + 100
