"""From a configuration to a network."""

from __future__ import annotations

from sseg_core.config import ModelConfig
from sseg_core.models.embedding import Model
from sseg_core.models.pseudomask_vit import PseudoMaskViT
from sseg_core.models.sseg import SSeg
from sseg_core.text.encoder import TextEncoder

__all__ = ["Model", "build_model"]


def build_model(config: ModelConfig) -> Model:
    """Return the network that `config` describes, with fresh weights, in training mode.

    Raises:
        ConfigError: the configuration describes no network, see `Backbone`, `MaskDecoder` and
            `PseudoMaskViT`.
        ArtifactError: the weight file of the backbone is unreadable or of another model.
        SsegError: pretrained backbone weights are not available.
    """
    network = PseudoMaskViT if config.architecture == "pseudomask_vit" else SSeg
    return network(config, TextEncoder(config.text))
