"""Which rival a `--model` names."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ConfigError, did_you_mean
from sseg_core.evaluation.rivals import groupvit, pseudomask_clip
from sseg_core.evaluation.rivals.checkpoint import open_checkpoint
from sseg_core.evaluation.rivals.clip_dense import VARIANTS, DenseClip
from sseg_core.evaluation.rivals.groupvit import open_groupvit
from sseg_core.evaluation.rivals.open_clip_model import ClipName, open_clip_model
from sseg_core.evaluation.rivals.plugin import Plugin, is_plugin
from sseg_core.evaluation.rivals.pseudomask_clip import PseudoMaskClip
from sseg_core.evaluation.rivals.rival import Rival
from sseg_core.inference.view import View

KINDS: Mapping[str, str] = {
    "clip:ARCH[:WEIGHTS]": "CLIP's value embeddings (S-Seg App. A.3)",
    "maskclip:ARCH[:WEIGHTS]": "MaskCLIP (Zhou et al., ECCV 2022)",
    "clip-output:ARCH[:WEIGHTS]": "the tokens of CLIP as it is",
    "pseudomask-clip:ARCH[:WEIGHTS]": "pseudo-masks named by CLIP (S-Seg Table 2, B1)",
    "groupvit[:REPOSITORY]": "GroupViT (Xu et al., CVPR 2022)",
    "FILE.py:FUNCTION": "a model of your own",
}
"""What can be named besides checkpoints and oracles, and what it is."""

_CLIP_KINDS = (*VARIANTS, pseudomask_clip.KIND)
_KINDS = (*_CLIP_KINDS, groupvit.KIND)
_VERSION = re.compile(r"v[0-9]+")


def open_rival(
    reference: str | None,
    view: View,
    *,
    store: ArtifactStore,
    device: torch.device,
    weights: str | None = None,
    generator: PseudomaskConfig | None = None,
) -> Rival:
    """Return the model that `reference` names.

    Args:
        reference: one of `KINDS`, or a checkpoint; None for the newest checkpoint.
        view: how the protocol shows images and words.
        store: where checkpoints are.
        device: where to compute.
        weights: a local file, or folder of a GroupViT, in the place of the hub's.
        generator: of the segments of `pseudomask-clip`; default: the paper's, or what is at hand.

    Raises:
        ConfigError: an unknown kind or architecture, an option that the model does not have, a
            missing library, or a plug-in that fails.
        ArtifactError: there is no such checkpoint, or weights cannot be had.
    """
    if reference is None or names_checkpoint(reference):
        _refuse_weights(reference or "A checkpoint", weights)
        return open_checkpoint(reference, view, store, device)
    _refuse_looks(reference, view)
    if is_plugin(reference):
        _refuse_weights(reference, weights)
        return Plugin(reference)
    kind, _, name = reference.partition(":")
    if kind in _CLIP_KINDS:
        clip_name = ClipName.parse(name)
        clip = open_clip_model(clip_name, weights, device)
        if kind == pseudomask_clip.KIND:
            return PseudoMaskClip(
                clip_name, clip, generator or PseudomaskConfig(), view, weights=weights,
                device=device,
            )  # fmt: skip
        return DenseClip(kind, clip_name, clip, view, weights=weights, device=device)
    assert kind == groupvit.KIND
    return open_groupvit(name, weights, view, device)


def names_checkpoint(reference: str | None) -> bool:
    """Return whether `reference` names a checkpoint, or a rival of another kind.

    Raises:
        ConfigError: it names neither.
    """
    if reference is None:
        return True
    kind, _, name = reference.partition(":")
    if is_plugin(reference) or kind in _KINDS:
        return False
    if name and not _VERSION.fullmatch(name) and "/" not in kind:
        raise ConfigError(
            f"There is no kind of model {kind!r}.", did_you_mean(kind, [*_KINDS, "oracle"])
        )
    return True


def _refuse_weights(model: str, weights: str | None) -> None:
    if weights is not None:
        raise ConfigError(f"{model} has its own weights.", "Leave weights out.")


def _refuse_looks(model: str, view: View) -> None:
    for name, is_asked in {"scales": view.scales not in {None, (1.0,)}, "flip": view.flip}.items():
        if is_asked:
            raise ConfigError(
                f"{model} looks at an image once: {name} is an option of checkpoints.",
                f"Leave {name} out.",
            )
