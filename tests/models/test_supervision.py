"""What pretrained weights learned from, and what is said of it."""

from __future__ import annotations

import pytest
import timm

from sseg_core.config import BackboneConfig
from sseg_core.models.supervision import licence_of, supervision_of, warm_start_note


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch8_224.dino", "self"),
        ("vit_small_patch14_dinov2.lvd142m", "self"),
        ("vit_small_patch16_dinov3.lvd1689m", "self"),
        ("convnext_tiny.dinov3_lvd1689m", "self"),
        ("convnextv2_tiny.fcmae", "self"),
        ("vit_base_patch16_224.mae", "self"),
        ("vit_huge_patch14_gap_224.in1k_ijepa", "self"),
        ("regnety_320.seer", "self"),
        ("convnextv2_tiny.fcmae_ft_in1k", "label"),
        ("hiera_base_224.mae_in1k_ft_in1k", "label"),
        ("regnety_320.seer_ft_in1k", "label"),
        ("swin_small_patch4_window7_224", "label"),  # its default weights
        ("beit_base_patch16_224.in22k_ft_in22k", "label"),
        ("resnet50.fb_swsl_ig1b_ft_in1k", "label"),
        ("regnety_160.swag_lc_in1k", "label"),
        ("convnext_base.fb_in22k_ft_in1k_384", "label"),
        ("mvitv2_base_cls.fb_inw21k", "label"),
        ("samvit_base_patch16.sa1b", "label"),
        ("sam2_hiera_tiny.fb_r896_2pt1", "label"),
        ("vit_base_patch16_clip_224.openai", "text"),
        ("vit_base_patch16_clip_224.openai_ft_in1k", "label"),
        ("vit_base_patch16_siglip_224.webli", "text"),
        ("eva02_base_patch14_224.mim_in22k", "text"),  # its teacher is a CLIP model
        ("resmlp_12_224.fb_dino", None),
        ("swin_small_patch4_window7_224.nothing", None),
        ("nothing", None),
    ],
)
def test_the_tag_tells_what_weights_learned_from(name: str, expected: str | None) -> None:
    """Of what was learned in turn, the last counts; what is not known is not guessed."""
    assert supervision_of(name) == expected


def test_no_weights_with_a_classifier_pass_as_self_supervised() -> None:
    """None of timm's weights that are taken for self-supervised has classes."""
    names = [name for name in timm.list_pretrained() if supervision_of(name) == "self"]
    assert len(names) > 40
    assert not [name for name in names if timm.get_pretrained_cfg(name).num_classes]


LABELS = "learned from labels: what comes out is no longer annotation-free"
TEXTS = "learned from texts: what comes out is no longer made of this run's captions alone"
UNKNOWN = "may have learned from labels: if so, what comes out is not annotation-free"
LICENCE = "are under cc-by-nc-4.0, which forbids commercial use"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_small_patch8_224.dino", None),
        ("swin_small_patch4_window7_224.ms_in22k_ft_in1k", LABELS),
        ("vit_base_patch16_224.mae", LICENCE),
        ("convnextv2_tiny.fcmae_ft_in1k", f"{LABELS}; they {LICENCE}"),
        ("vit_base_patch16_clip_224.openai", TEXTS),
        ("resmlp_12_224.fb_dino", UNKNOWN),
    ],
)
def test_a_note_says_what_pretrained_weights_bring_in(name: str, expected: str | None) -> None:
    """One sentence where a user should know something; none for free, self-supervised weights."""
    note = expected and f"The weights of {name} {expected}."
    assert warm_start_note(BackboneConfig(name=name, pretrained=True)) == note


def test_a_note_names_the_weights_that_timm_takes_by_default() -> None:
    """A name without a tag stands for weights that have one."""
    note = warm_start_note(BackboneConfig(name="swin_small_patch4_window7_224", pretrained=True))
    assert note == f"The weights of swin_small_patch4_window7_224.ms_in22k_ft_in1k {LABELS}."


def test_a_local_file_is_what_the_name_of_the_model_says() -> None:
    """Its user names the tag of what is in it; without one it may be anything."""
    named = BackboneConfig(name="vit_small_patch8_224.dino", weights="dino.pth", frozen=True)
    assert warm_start_note(named) is None
    unnamed = BackboneConfig(name="vit_small_patch8_224", weights="folder/vit.pth")
    assert warm_start_note(unnamed) == f"The weights of vit.pth {UNKNOWN}."


def test_fresh_weights_need_no_note() -> None:
    """Nothing is taken over, whatever the tag in the name."""
    assert warm_start_note(BackboneConfig()) is None
    assert warm_start_note(BackboneConfig(name="resnet50.a1_in1k")) is None


def test_licences_are_as_timm_states_them() -> None:
    """None where timm knows no such weights."""
    assert licence_of("vit_base_patch16_224.mae") == "cc-by-nc-4.0"
    assert licence_of("nothing") is None
