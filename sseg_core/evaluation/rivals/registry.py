"""Which rival a `--model` names."""

from __future__ import annotations

import torch

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.evaluation.rivals import groupvit, pseudomask_clip
from sseg_core.evaluation.rivals.checkpoint import open_checkpoint
from sseg_core.evaluation.rivals.clip_dense import VARIANTS, DenseClip
from sseg_core.evaluation.rivals.groupvit import open_groupvit
from sseg_core.evaluation.rivals.names import is_plugin, names_checkpoint
from sseg_core.evaluation.rivals.open_clip_model import ClipName, open_clip_model
from sseg_core.evaluation.rivals.plugin import Plugin
from sseg_core.evaluation.rivals.pseudomask_clip import PseudoMaskClip
from sseg_core.evaluation.rivals.rival import Rival
from sseg_core.inference.view import View


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
    if kind == pseudomask_clip.KIND or kind in VARIANTS:
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
