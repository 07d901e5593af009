"""Texture features: what each channel holds, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import dijkstra

from sseg_core.pseudomask.texture import Texture, border_distance

COLOUR, ACROSS, DOWN, ROW, COLUMN, DEPTH = slice(0, 3), 3, 4, 5, 6, 7


def _photo(seed: int, B: int = 2, side: int = 96) -> torch.Tensor:
    """Smooth blobs of colour with some grain."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(B, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    return (smooth + 0.05 * torch.rand(B, 3, side, side, generator=generator)).clamp(0, 1)


def _stripes(side: int = 128) -> torch.Tensor:
    """Black and white columns, two pixels each, which a cell of grid 64 would average to grey."""
    columns = (torch.arange(side) // 2 % 2).float()
    return columns.expand(1, 3, side, side)


def _two_halves(side: int = 128) -> torch.Tensor:
    return (torch.arange(side) >= side // 2).float().expand(1, 3, side, side)


@pytest.mark.parametrize("grid", [8, 20, 64, 100])
@pytest.mark.parametrize("size", [(32, 32), (50, 70), (224, 224)])
def test_any_image_gives_a_full_grid_of_finite_features(grid: int, size: tuple[int, int]) -> None:
    """Eight features in each cell, also where the grid is finer than the image."""
    images = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0))
    features = Texture(grid)(images)
    assert features.shape == (2, grid, grid, 8)
    assert features.isfinite().all()


def test_cells_of_a_plain_image_differ_by_their_place_alone() -> None:
    """No colour changes, no texture, no depth; rows and columns grow as they should."""
    features = Texture(16)(torch.full((1, 3, 64, 64), 0.4))[0]
    assert torch.allclose(features[..., COLOUR], features[0, 0, COLOUR], atol=1e-5)
    for channel in (ACROSS, DOWN, DEPTH):
        assert features[..., channel].abs().max() < 1e-5
    assert (features[1:, :, ROW] > features[:-1, :, ROW]).all()
    assert (features[:, 1:, COLUMN] > features[:, :-1, COLUMN]).all()


def test_stripes_have_texture_across_and_a_plain_outline_has_next_to_none() -> None:
    """The gradients of fine stripes count; those at the outline of a plain thing do not."""
    stripes = Texture(64)(_stripes())[0]
    halves = Texture(64)(_two_halves())[0]
    assert stripes[..., ACROSS].min() > 1
    assert stripes[..., DOWN].abs().max() < 1e-5
    assert halves[..., ACROSS].max() < 0.1 * stripes[..., ACROSS].min()


def test_chroma_counts_for_more_than_lightness() -> None:
    """Red and green of one lightness are farther apart than a lit and a shaded red."""
    colors = torch.tensor([[0.8, 0.1, 0.1], [0.5, 0.06, 0.06], [0.2, 0.45, 0.1]])
    features = Texture(8)(colors[:, :, None, None].expand(3, 3, 32, 32))
    red, shade, green = features[:, 4, 4, COLOUR]
    assert (red - green).norm() > 2 * (red - shade).norm()


def test_a_thing_inside_is_deep_and_a_thing_cut_by_the_border_is_not() -> None:
    """A patch enclosed by another colour is far from the border, the same patch at it near."""
    images = torch.full((2, 3, 64, 64), 0.2)
    images[0, :, 24:40, 24:40] = 0.9
    images[1, :, 24:40, 48:] = 0.9
    depth = Texture(32)(images)[..., DEPTH]
    assert depth[0, 15:17, 15:17].min() > 0.2
    assert depth[1, 15:17, 28:].max() < 0.01
    assert depth[:, :8].max() < 0.01


def test_border_distance_is_the_shortest_way_of_a_graph_search() -> None:
    """On smooth colours the sweeps find what Dijkstra's algorithm finds, and never less."""
    colour = Texture(24)(_photo(3, B=3))[..., COLOUR].permute(0, 3, 1, 2)
    found = border_distance(colour)
    for image in range(3):
        exact = torch.from_numpy(_dijkstra(colour[image].double().numpy())).float()
        assert (found[image] >= exact - 1e-5).all()
        # Ways with more turns than there are sweeps are rare and little shorter.
        assert (found[image] - exact).mean() < 0.005 * exact.mean()
        assert ((found[image] - exact).abs() < 1e-5).float().mean() > 0.9


def _dijkstra(colour: np.ndarray) -> np.ndarray:
    """Return [H, W] distances from the border of [C, H, W] colours."""
    _, H, W = colour.shape
    cells = np.arange(H * W).reshape(H, W)
    pairs = [(cells[:, :-1], cells[:, 1:]), (cells[:-1], cells[1:])]
    flat = colour.reshape(len(colour), -1)
    rows, columns, lengths = [], [], []
    for first, second in pairs:
        a, b = first.ravel(), second.ravel()
        rows.append(a)
        columns.append(b)
        lengths.append(np.linalg.norm(flat[:, a] - flat[:, b], axis=0) + 1e-12)
    graph = coo_matrix(
        (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))),
        shape=(H * W, H * W),
    ).tocsr()
    inside = np.zeros((H, W), dtype=bool)
    inside[1:-1, 1:-1] = True
    distances = dijkstra(graph, directed=False, indices=cells[~inside], min_only=True)
    return distances.reshape(H, W)


def test_the_features_of_a_mirrored_image_are_mirrored() -> None:
    """All but the column, which counts from the left."""
    images = _photo(1)
    plain = Texture(32)(images)
    mirrored = Texture(32)(images.flip(3)).flip(2)
    mirrored[..., COLUMN] = 0.5 - mirrored[..., COLUMN]
    torch.testing.assert_close(mirrored, plain, atol=1e-4, rtol=0)


def test_the_size_of_the_image_matters_through_the_grid_alone() -> None:
    """An image enlarged by a whole factor has the same features."""
    images = _photo(2, side=64)
    enlarged = images.repeat_interleave(3, dim=2).repeat_interleave(3, dim=3)
    torch.testing.assert_close(Texture(32)(enlarged), Texture(32)(images), atol=1e-4, rtol=0)


def test_an_image_has_its_features_whatever_else_is_in_the_batch() -> None:
    """Alone or between others, the features are the same to the bit."""
    images = _photo(4, B=5)
    together = Texture(24)(images)
    for i in range(5):
        assert torch.equal(Texture(24)(images[i : i + 1])[0], together[i])
