"""The backbone: levels, strides, and what happens when timm refuses."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants
import pytest
import torch

from sseg_core.config import BackboneConfig
from sseg_core.errors import ConfigError, SsegError
from sseg_core.models.backbone import Backbone

RESNET = BackboneConfig(name="resnet10t", out_indices=(1, 2, 3))
SWIN = BackboneConfig(
    name="swin_tiny_patch4_window7_224",
    options={"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
)


@pytest.mark.parametrize(
    ("config", "strides"), [(RESNET, (4, 8, 16)), (SWIN, (4, 8, 16, 32))], ids=["resnet", "swin"]
)
def test_levels_are_finest_first_and_channels_first(
    config: BackboneConfig, strides: tuple[int, ...]
) -> None:
    """Every level is [B, channels, H / stride, W / stride], for sizes timm was not told of."""
    backbone = Backbone(config).eval()
    levels = backbone(torch.randn(2, 3, 64, 96))
    assert strides == backbone.strides
    assert [(2, c, 64 // s, 96 // s) for c, s in zip(backbone.channels, strides, strict=True)] == [
        tuple(level.shape) for level in levels
    ]


def test_only_channels_last_models_get_norms() -> None:
    """Swin's levels come out with mean 0 and variance 1 per cell; a ResNet has no extra norm."""
    for level in Backbone(SWIN).eval()(torch.randn(1, 3, 64, 64)):
        torch.testing.assert_close(
            level.mean(1), torch.zeros(1, *level.shape[2:]), atol=1e-4, rtol=0
        )
        variance = level.detach().var(1, unbiased=False)
        assert variance.median().item() == pytest.approx(1, abs=0.01)
    assert not [name for name, _ in Backbone(RESNET).named_parameters() if "norms" in name]


def test_batch_statistics_do_not_leak_into_eval_mode() -> None:
    """In eval mode the levels of an image do not depend on its neighbours in the batch."""
    backbone = Backbone(RESNET)
    backbone(torch.randn(4, 3, 32, 32))
    backbone.eval()
    images = torch.randn(3, 3, 32, 32)
    for together, alone in zip(backbone(images), backbone(images[1:2]), strict=True):
        torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "message", "hint"),
    [
        (BackboneConfig(name="resnet10"), "no model 'resnet10'", "Did you mean 'resnet10t'?"),
        (BackboneConfig(name="????"), "no model '????'", "timm.list_models() names"),
        (BackboneConfig(name="resnet10t", options={"depth": 3}), "'depth'", "backbone.options"),
        (BackboneConfig(name="resnet10t", out_indices=(9,)), "resnet10t", "backbone.out_indices"),
        (BackboneConfig(name="resnet10t", out_indices=(3, 1)), "coarse", "finest level first"),
    ],
)
def test_a_backbone_that_cannot_be_built_is_refused(
    config: BackboneConfig, message: str, hint: str
) -> None:
    """A wrong name, option or level is one sentence that names it, and a next step."""
    with pytest.raises(ConfigError) as caught:
        Backbone(config)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint


def test_pretrained_weights_that_cannot_be_had_are_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Offline and without a cache, `pretrained` says so and does not start from fresh weights."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SsegError, match="weights of resnet10t are not available") as caught:
        Backbone(RESNET.model_copy(update={"pretrained": True}))
    assert "model.backbone.pretrained=false" in caught.value.hint
