"""The optimiser: which parameter learns how fast, which decays, and how the rate goes in time."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from sseg_core.config import OptimConfig
from sseg_core.models.backbone import Backbone


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW (S-Seg Tables 5 and 6) over the parameters of `model` that are not frozen.

    Each group holds under `lr_scale` its share of the learning rate. It is 1 for all that is not
    in the backbone; of the backbone's L layers the one at depth l, from 0, has
    `config.layer_decay` ** (L - l). Groups follow each other by depth, of one depth those that
    decay first: the order in which a saved state names them.

    No weight decay is on parameters with at most one axis longer than 1 (biases, norms, the
    temperature), and none on tables of positions (queries', tokens', and those of windows): decay
    would pull them to zero although zero means nothing special there.

    Raises:
        ConfigError: there is a layer decay, and timm does not know the layers of the backbone.
    """
    depths = _depths(model) if config.layer_decay < 1 else {}
    behind = max(depths.values(), default=-1) + 1
    members: dict[tuple[int, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            is_exempt = _is_exempt(name, parameter)
            members[depths.get(name, behind), is_exempt].append(parameter)
    groups: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": 0.0 if is_exempt else config.weight_decay,
            "lr_scale": config.layer_decay ** (behind - depth),
        }
        for (depth, is_exempt), parameters in sorted(members.items(), key=lambda item: item[0])
    ]
    # Fused is one pass over the memory instead of ten; the token table is large.
    optimizer = torch.optim.AdamW(groups, lr=config.lr, betas=config.betas, fused=True)
    set_learning_rate(optimizer, config.lr)
    return optimizer


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its share of `rate`."""
    for group in optimizer.param_groups:
        # A state that was saved before there were shares has none: each was 1.
        group["lr"] = rate * group.get("lr_scale", 1.0)


def learning_rate(step: int, steps: int, warmup_steps: int, config: OptimConfig) -> float:
    """Return the learning rate of step number `step` of `steps`.

    A linear warm-up to `config.lr`, then half a cosine (S-Seg Table 5) or the polynomial
    (1 - t)^power (Table 6) down to `config.min_lr`, t going from 0 to 1 after the warm-up.
    """
    if step < warmup_steps:
        return config.lr * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    if config.schedule == "poly":
        left = math.pow(1 - done, config.power)
    else:
        left = 0.5 * (1 + math.cos(math.pi * done))
    return config.min_lr + (config.lr - config.min_lr) * left


def _depths(model: nn.Module) -> dict[str, int]:
    """Return the depth of each parameter of a backbone, by its name in `model`."""
    return {
        f"{prefix}.{name}": depth
        for prefix, module in model.named_modules()
        if isinstance(module, Backbone)
        for name, depth in module.layer_depths().items()
    }


def _is_exempt(name: str, parameter: nn.Parameter) -> bool:
    is_vector = sum(size > 1 for size in parameter.shape) <= 1
    return is_vector or "position" in name or "pos_embed" in name
