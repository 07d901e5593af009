"""What timm's pretrained weights learned from, and what that means for a model made with them.

S-Seg learns from images and captions alone; weights that learned from labels bring annotation in.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from sseg_core.config import BackboneConfig

Supervision = Literal["none", "self", "label", "text"]
"""No learning at all; from images alone; from labels of images or masks; from texts, as CLIP."""

_SELF = {
    "dino", "lvd142m", "lvd1689m", "dinov3_lvd1689m", "sat493m",  # DINO, DINOv2, DINOv3
    "mae", "fcmae",  # masked autoencoders: ViT and Hiera, ConvNeXt V2
    "in1k_ijepa", "in22k_ijepa",
    "seer",  # SwAV on uncurated photos
}  # fmt: skip
"""Tags of timm's weights that saw neither labels nor texts, nor a teacher that did."""

_TEXT_TAUGHT = {"mim_in22k", "mim_m38m", "c_radio"}
"""Tags of weights that imitate a CLIP model: EVA-02 before any labels, RADIO."""

_LABEL = re.compile(r"(^|_)in(1|12|21|22|w21)k(_\d+)?$|^(sa1b|bamboo)$|^fb_r\d+(_2pt1)?$")
"""Tags that end in the labelled data of the last training, or are those of SAM and Bamboo."""

_TEXT = re.compile(
    "clip|openai|laion|datacomp|dfn|siglip|webli|merged2b|aimv2|beit3|florence|gemma|qwen|"
    "deepseek|vit_pe_|intern300m"
)
"""Parts of the names of what learned from texts."""

_NON_COMMERCIAL = re.compile("-nc-|noncommercial|amlr")


def supervision_of(name: str) -> Supervision | None:
    """Return what timm's weights `name` learned from last, or None where that is not known.

    Args:
        name: of a timm model, with the tag of its weights or for timm's default weights.
    """
    source = pretrained_source(name)
    tag: str = (source and source.tag) or ""
    if tag in _SELF:
        return "self"
    if tag not in _TEXT_TAUGHT and _LABEL.search(tag):
        return "label"
    return "text" if tag in _TEXT_TAUGHT or _TEXT.search(f"{name}.{tag}") else None


def pretrained_source(name: str) -> Any:
    """Return what timm knows of the weights of its model `name`, or None."""
    import timm

    try:
        return timm.get_pretrained_cfg(name)
    except RuntimeError:  # there is such a model, but no such tag
        return None


def licence_of(name: str) -> str | None:
    """Return the licence of timm's weights `name` as timm states it, if it does."""
    source = pretrained_source(name)
    stated: str | None = None if source is None else source.license
    return stated


def warm_start_note(config: BackboneConfig) -> str | None:
    """Return a sentence on what a run takes over with its backbone, if its user should know it.

    That is: weights that learned from more than images, or may have, and weights that must not be
    used commercially. What a local file learned from is taken from the tag in `config.name`, if
    there is one.
    """
    if not config.pretrained and config.weights is None:
        return None
    if config.pretrained:
        source = pretrained_source(config.name)
        tag = f".{source.tag}" if source is not None and source.tag else ""
        origin = config.name.partition(".")[0] + tag
    else:
        origin = Path(str(config.weights)).name
    is_named = config.pretrained or "." in config.name
    supervision = supervision_of(config.name) if is_named else None
    licence = licence_of(config.name) if is_named else None
    facts = []
    if supervision != "self":
        facts.append(_CONSEQUENCES[supervision])
    if licence is not None and _NON_COMMERCIAL.search(licence):
        facts.append(f"are under {licence}, which forbids commercial use")
    return f"The weights of {origin} {'; they '.join(facts)}." if facts else None


_CONSEQUENCES: dict[Supervision | None, str] = {
    "label": "learned from labels: what comes out is no longer annotation-free",
    "text": "learned from texts: what comes out is no longer made of this run's captions alone",
    None: "may have learned from labels: if so, what comes out is not annotation-free",
}
