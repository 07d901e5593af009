"""Small CLIPs with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def clip_config() -> dict[str, Any]:
    """A CLIP of open_clip with 3 x 2 blocks, for images of 32 pixels in patches of 8."""
    return {
        "embed_dim": 24,
        "quick_gelu": True,
        "vision_cfg": {
            "image_size": 32, "patch_size": 8, "width": 32, "layers": 3, "head_width": 8,
        },
        "text_cfg": {
            "context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2,
        },
    }  # fmt: skip


@pytest.fixture(scope="session")
def clip_file(clip_config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its random weights, as open_clip publishes them."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = open_clip.CLIP(**clip_config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or "embedding" in name:
                parameter.normal_(0, 0.2)  # so that words and patches do differ
    path = tmp_path_factory.mktemp("clip") / "open_clip_model.safetensors"
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, path)
    return path


@pytest.fixture
def photo() -> Callable[..., Any]:
    """Makes an [H, W, 3] uint8 image of coarse random colours."""

    def make(height: int, width: int, seed: int = 0) -> Any:
        small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
        rows = np.arange(height) * 4 // height
        columns = np.arange(width) * 5 // width
        return small[rows[:, None], columns]

    return make
