"""The same pseudo-masks on a GPU as on the CPU."""

from __future__ import annotations

import pytest
import torch

from sseg_core.config import PseudomaskConfig
from sseg_core.pseudomask.clustering import build_clustering
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.structures import IGNORE_LABEL

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.mark.parametrize("clustering", ["kmeans", "cosine", "spectral", "merge"])
def test_clear_segments_are_the_same(clustering: str) -> None:
    """Tokens in four far groups, as four bands of the grid: nothing depends on rounding."""
    centres = 20 * torch.eye(4, 32)
    bands = torch.arange(16).div(4, rounding_mode="floor")
    noise = torch.randn(5, 16, 16, 32, generator=torch.Generator().manual_seed(0))
    features = centres[bands][:, None].expand(16, 16, 32) + noise
    config = PseudomaskConfig(features="lab", clustering=clustering, masks=4)  # type: ignore[arg-type]
    cluster = build_clustering(config)
    for labels in (cluster(features, range(5)), cluster(features.cuda(), range(5)).cpu()):
        rows = labels[:, :, :1]
        assert torch.equal(labels, rows.expand_as(labels))
        assert all(len(image.unique()) == 4 for image in labels)
        assert torch.equal(
            rows.diff(dim=1) != 0, (bands.diff() != 0)[None, :, None].expand(5, -1, 1)
        )


@pytest.mark.parametrize("features", ["rgb", "lab", "texture"])
def test_flat_images_give_the_same_maps(features: str) -> None:
    """Four coloured quarters are told apart alike, and broken pixels are marked."""
    image = torch.zeros(3, 64, 64)
    image[0, :32] = 1
    image[2, :, 32:] = 1
    images = torch.stack([image, image.flip(1), torch.full_like(image, torch.nan)])
    config = PseudomaskConfig(features=features, grid=16, image_size=64, masks=4)
    on_cpu = PseudoMaskGenerator(config, torch.device("cpu"))(images, list("abc"))
    on_gpu = PseudoMaskGenerator(config, torch.device("cuda"))(images.cuda(), list("abc"))
    assert on_gpu.device.type == "cuda"
    assert torch.equal(on_gpu.cpu(), on_cpu)
    assert (on_cpu[2] == IGNORE_LABEL).all()
