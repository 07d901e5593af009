"""Maps that follow the colours of an image."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sseg_core.inference.combine import class_scores
from sseg_core.inference.mask_weights import WindowMasks
from sseg_core.inference.pamr import refine, refine_window
from sseg_core.inference.windows import Box, Window


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _by_the_definition(maps: np.ndarray, image: np.ndarray, iterations: int = 10) -> np.ndarray:
    """PAMR pixel by pixel in float64, from the formulas of the paper."""
    _, h, w = image.shape
    places = [(d * y, d * x) for d in (1, 2, 4, 8, 12, 24) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    at = {
        (i, j): [(min(max(i + y, 0), h - 1), min(max(j + x, 0), w - 1)) for y, x in places]
        for i in range(h)
        for j in range(w)
    }
    neighbours = {
        key: [p for p, o in zip(ps, places, strict=True) if o != (0, 0)] for key, ps in at.items()
    }
    share = {}
    for (i, j), around in at.items():
        colours = np.array([image[:, a, b] for a, b in around])
        deviation = colours.std(axis=0, ddof=1)
        distance = [
            (np.abs(image[:, a, b] - image[:, i, j]) / (1e-8 + 0.1 * deviation)).mean()
            for a, b in neighbours[i, j]
        ]
        weight = np.exp(-np.array(distance))
        share[i, j] = weight / weight.sum()
    for _ in range(iterations):
        old, maps = maps, np.empty_like(maps)
        for (i, j), weight in share.items():
            maps[:, i, j] = sum(
                k * old[:, a, b] for k, (a, b) in zip(weight, neighbours[i, j], strict=True)
            )
    return maps


def test_it_is_pamr(generator: torch.Generator) -> None:
    """On a small image the result is that of the definition, borders included."""
    image = torch.rand(3, 7, 9, generator=generator)
    maps = torch.randn(2, 7, 9, generator=generator)
    expected = _by_the_definition(maps.double().numpy(), image.double().numpy())
    np.testing.assert_allclose(refine(maps, image).numpy(), expected, atol=1e-5)


def test_the_scale_of_the_colours_does_not_matter(generator: torch.Generator) -> None:
    """Colours in [0, 1] and normalised ones give the same, for distances are in deviations."""
    image = torch.rand(3, 20, 30, generator=generator)
    maps = torch.rand(4, 20, 30, generator=generator)
    mean, std = torch.rand(2, 3, 1, 1, generator=generator)
    torch.testing.assert_close(
        refine(maps, image), refine(maps, (image - mean) / (std + 0.1)), atol=1e-4, rtol=1e-4
    )


def test_a_flat_image_spreads_evenly() -> None:
    """Where all neighbours look alike, maps are averaged; a constant map stays as it is."""
    flat = torch.full((3, 60, 60), 0.4)
    torch.testing.assert_close(
        refine(torch.full((1, 60, 60), 0.7), flat), torch.full((1, 60, 60), 0.7)
    )
    spot = torch.zeros(1, 60, 60)
    spot[0, 30, 30] = 1
    assert refine(spot, flat).max() < 0.05


def test_a_blurred_border_moves_to_that_of_the_colours() -> None:
    """A mask that fades over ten cells becomes steep where black meets white."""
    image = torch.zeros(3, 40, 40)
    image[:, :, 20:] = 1
    mask = ((torch.arange(40) - 14.5) / 10).clamp(0, 1).expand(1, 40, 40)
    refined = refine(mask, image)
    assert (mask[..., 20] - mask[..., 19]).abs().max() < 0.11
    assert (refined[..., 20] - refined[..., 19]).min() > 0.5


def test_refined_masks_give_what_refined_class_scores_would(generator: torch.Generator) -> None:
    """The step is linear: masks first and classes then is classes first and masks then."""
    logits = 4 * torch.randn(5, 12, 15, generator=generator)
    classes = torch.randn(5, 40, generator=generator).softmax(dim=1)
    pixels = torch.rand(3, 46, 60, generator=generator)  # the grid sticks out below
    window = WindowMasks(logits, classes, Window(Box(0, 0, 46, 60), (46, 60)), 4)
    refined = refine_window(window, pixels)
    assert refined.are_weights
    torch.testing.assert_close(refined.values.sum(dim=0), torch.ones(12, 15), atol=1e-4, rtol=0)
    plain = logits.sigmoid() / logits.sigmoid().sum(dim=0)
    scores = torch.einsum("qc,qyx->cyx", classes, plain)
    colours = torch.nn.functional.interpolate(
        torch.cat([pixels, pixels[:, -1:].expand(3, 2, 60)], dim=1)[None], (12, 15), mode="bilinear"
    )[0]
    expected = refine(scores, colours)
    actual = torch.einsum("qc,qyx->cyx", classes, refined.values)
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-4)
    # On the grid itself, combining interpolates nothing.
    whole = Window(Box(0, 0, 12, 15), (12, 15))
    on_grid = WindowMasks(refined.values, classes, whole, 1, are_weights=True)
    torch.testing.assert_close(class_scores([on_grid], (12, 15)), expected, atol=1e-5, rtol=1e-4)
