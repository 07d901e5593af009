"""From a configuration to a network, and from a network to the optimiser's parameter groups."""

from __future__ import annotations

from torch import nn

from sseg_core.config import ModelConfig
from sseg_core.models.sseg import SSeg
from sseg_core.text.encoder import TextEncoder


def build_model(config: ModelConfig) -> SSeg:
    """Return the network that `config` describes, with fresh weights, in training mode.

    Raises:
        ConfigError: the configuration describes no network, see `Backbone` and `MaskDecoder`.
        SsegError: pretrained backbone weights are not available.
    """
    return SSeg(config, TextEncoder(config.text))


def decay_groups(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters that get weight decay, and those that get none.

    Left out are those with at most one axis longer than 1 (biases, norms, the temperature), and
    the tables of positions (queries', tokens', and those of windows): decay would pull them to
    zero although zero means nothing special there.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        is_vector = sum(size > 1 for size in parameter.shape) <= 1
        is_position = "position" in name or "pos_embed" in name
        (others if is_vector or is_position else decayed).append(parameter)
    return decayed, others
