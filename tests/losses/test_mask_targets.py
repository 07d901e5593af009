"""mask_targets: label maps become binary masks on the mask grid."""

from __future__ import annotations

import torch

from sseg_core.losses.mask_targets import mask_targets
from sseg_core.structures import IGNORE_LABEL


def test_each_segment_becomes_the_mask_in_its_slot() -> None:
    """Slot k is segment k; the slot of an absent segment is empty and not present."""
    labels = torch.tensor([[[3, 3], [2, 0]], [[1, 1], [1, 1]]], dtype=torch.uint8)
    targets = mask_targets(labels, (2, 2), 4)
    assert targets.present.tolist() == [[True, False, True, True], [False, True, False, False]]
    empty, full = [[0, 0], [0, 0]], [[1, 1], [1, 1]]
    expected = [
        [[[0, 0], [0, 1]], empty, [[0, 0], [1, 0]], [[1, 1], [0, 0]]],
        [empty, full, empty, empty],
    ]
    assert targets.masks.tolist() == expected
    assert targets.valid.tolist() == [[[1, 1], [1, 1]]] * 2


def test_ignored_pixels_are_no_mask_and_not_valid() -> None:
    """`IGNORE_LABEL` makes no mask of its own, and its cells are marked invalid."""
    labels = torch.tensor([[[1, IGNORE_LABEL]]], dtype=torch.uint8)
    targets = mask_targets(labels, (1, 2), 254)
    assert targets.present.nonzero().tolist() == [[0, 1]]
    assert targets.masks[0, 1].tolist() == [[1, 0]]
    assert targets.valid.tolist() == [[[1, 0]]]


def test_a_cell_takes_the_pixel_at_its_centre_as_nearest_exact_does() -> None:
    """Shrinking and growing by any factor agrees with torch's nearest-exact."""
    generator = torch.Generator().manual_seed(0)
    for (H, W), size in [
        ((9, 15), (3, 5)),
        ((7, 10), (4, 3)),
        ((3, 5), (8, 6)),
        ((64, 48), (16, 12)),
    ]:
        labels = torch.randint(0, 6, (2, H, W), generator=generator, dtype=torch.uint8)
        grid = torch.nn.functional.interpolate(
            labels[:, None].float(), size=size, mode="nearest-exact"
        )[:, 0]
        targets = mask_targets(labels, size, 6)
        ids = torch.arange(6)[:, None, None]
        assert torch.equal(targets.masks, (grid[:, None] == ids).float())


def test_a_segment_that_covers_no_cell_centre_is_dropped() -> None:
    """What vanishes in the resize is not an empty target."""
    labels = torch.zeros(1, 8, 8, dtype=torch.uint8)
    labels[0, 0, 0] = 9
    targets = mask_targets(labels, (2, 2), 10)
    assert targets.present.nonzero().tolist() == [[0, 0]]
    assert targets.masks.sum().item() == 4


def test_a_batch_without_any_segment_has_no_masks_but_keeps_its_shapes() -> None:
    """All pixels ignored: zero masks of the right size."""
    targets = mask_targets(torch.full((2, 4, 4), IGNORE_LABEL, dtype=torch.uint8), (2, 3), 8)
    assert not targets.present.any()
    assert targets.masks.shape == (2, 8, 2, 3)
    assert targets.masks.sum().item() == 0
    assert targets.valid.shape == (2, 2, 3)
    assert targets.valid.sum().item() == 0
