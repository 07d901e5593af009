"""What tests of inference share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.config import CropConfig, StudentConfig, UperNetConfig
from sseg_core.inference.class_network import ClassNetwork
from sseg_core.inference.segmenter import Segmenter
from sseg_core.structures import ClassLogits


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Text features of a test stay out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("SSEG_CACHE", str(folder))
    return folder


class SmallStudent(nn.Module):
    """A convolution at a stride of 4, small enough to be written out again in plain torch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, channels, 8, 4)  # random weights tell left from right
        nn.init.normal_(self.conv.weight, std=0.4)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> ClassLogits:
        self.seen.append(tuple(images.shape))
        height, width = images.shape[2:]
        padded = F.pad(images - 0.5, (2, 2 + -width % 4, 2, 2 + -height % 4))
        return ClassLogits(self.conv(padded), None, 4)


@pytest.fixture
def taught() -> Callable[..., tuple[Any, Segmenter]]:
    """Makes a small student of some classes, and the segmenter that uses it at a side of 40."""

    def make(
        names: Sequence[str], *, background: bool, teacher: str | None = None
    ) -> tuple[SmallStudent, Segmenter]:
        student = SmallStudent(len(names) + background)
        config = StudentConfig(
            model=UperNetConfig(class_names=tuple(names), has_background=background),
            loader=CropConfig(short_side=40),
        )
        return student, Segmenter(ClassNetwork(student, config, teacher))

    return make
