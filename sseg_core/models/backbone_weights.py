"""Weight files of timm's models: as timm, and as the authors of the models publish them."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sseg_core.checkpoint import load_tensors, read_tensors
from sseg_core.config import BackboneConfig
from sseg_core.errors import ArtifactError

_WRAPPERS = ("backbone.", "encoder.", "base_encoder.", "encoder_q.")
"""Where training states keep the backbone, among heads: DINO, SimMIM, MoCo v3, MoCo."""

_PATCHES = "patch_embed.proj.weight"


def load_backbone_weights(body: nn.Module, config: BackboneConfig, path: Path) -> None:
    """Load a weight file of a whole model into the `features_only` model made of it.

    What does not take part in the feature levels (the classifier, a last norm, later stages) may
    be in the file or not; all else is accounted for. See `load_timm_weights`.

    Args:
        body: the model to fill.
        config: what it was made from.
        path: .safetensors, or .pth, .pt or .bin without code.

    Raises:
        ArtifactError: the file is unreadable or of another model; the first wrong tensor is named.
        ConfigError: timm renames the parts of this model in an unknown way.
    """
    # Here, so that the weights of a plain ViT can be loaded without the network.
    from sseg_core.models.timm_model import create_plain_model, names_in_body

    plain = create_plain_model(config)
    places = names_in_body(plain, body)
    load_timm_weights(plain, path, optional=plain.state_dict().keys() - places.keys())
    loaded = plain.state_dict()
    body.load_state_dict({place: loaded[name] for name, place in places.items()})


def load_timm_weights(model: nn.Module, path: Path, *, optional: Collection[str] = ()) -> None:
    """Load a weight file into a timm model without a classifier, every tensor accounted for.

    Takes files of timm; what the authors of ViT, Swin, ConvNeXt and others published, as far as
    timm knows how to convert it; and training states, of which the teacher or else the encoder
    is taken. Tables of positions are resampled by timm for another image size; patches of
    another size are refused, as they would make another model.

    Args:
        model: the model to fill.
        path: .safetensors, or .pth, .pt or .bin without code.
        optional: tensors of the model that may be absent from the file, and then stay as they are.

    Raises:
        ArtifactError: the file is unreadable or of another model; the first wrong tensor is named.
    """
    own = model.state_dict()
    tensors = _unwrapped(read_tensors(path), own)
    _check_patches(own, tensors, path)
    tensors = _without_heads(_as_timm_names_them(model, tensors, path), model, own)
    kept = {name: own[name] for name in optional if name not in tensors}
    load_tensors(model, {**tensors, **kept}, source=str(path))


def _unwrapped(tensors: Mapping[str, Tensor], own: Collection[str]) -> dict[str, Tensor]:
    """Leave out what surrounds the backbone in a training state."""
    plain = {
        name.removeprefix("_orig_mod.").removeprefix("module."): tensor
        for name, tensor in tensors.items()
    }
    for wrapper in _WRAPPERS:
        inside = {
            name.removeprefix(wrapper): tensor
            for name, tensor in plain.items()
            if name.startswith(wrapper)
        }
        if inside and not any(name.startswith(wrapper) for name in own):
            return inside
    return plain


def _check_patches(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = own[_PATCHES].shape if _PATCHES in own else None
    for name, tensor in tensors.items():
        if expected and name.endswith(_PATCHES) and tensor.ndim == 4 and tensor.shape != expected:
            raise ArtifactError(
                f"{name!r} has shape {list(tensor.shape)} in {path}, but the model needs "
                f"{list(expected)}.",
                "Name the model that the file belongs to.",
            )


def _as_timm_names_them(model: Any, tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors by timm's names, tables of positions resampled; unchanged if unknown."""
    from timm.models import eva, vision_transformer

    has_biases = "blocks.0.attn.q_bias" in model.state_dict()
    if isinstance(model, eva.Eva) and "storage_tokens" in tensors and not has_biases:
        raise ArtifactError(
            f"{path} holds the biases of DINOv3's attention, which this model leaves out.",
            "Use the timm model with _qkvb in its name, such as vit_small_patch16_dinov3_qkvb.",
        )
    # timm's modules call the converter of their models so; those without have nothing to convert.
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return tensors
    is_vit = isinstance(model, vision_transformer.VisionTransformer)
    options = {"adapt_layer_scale": True} if is_vit else {}  # DeiT-3's; others have none
    try:
        return dict(convert(dict(tensors), model, **options))
    except (AssertionError, AttributeError, KeyError, RuntimeError, ValueError):
        return tensors  # of no kind that timm knows: loading names the first wrong tensor


def _without_heads(
    tensors: Mapping[str, Tensor], model: Any, own: Collection[str]
) -> dict[str, Tensor]:
    """Leave out the classifier, and what stands for hidden patches in masked pre-training."""
    names = model.pretrained_cfg["classifier"] or ()
    heads = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))
    return {
        name: tensor
        for name, tensor in tensors.items()
        if name in own or not (name.startswith(heads) or name == "mask_token")
    }
