"""timm's models: created from a configuration, and what stands behind their feature levels.

timm's `features_only` wraps a model and renames or drops some of its parts. Weight files and
timm's order of layers speak of the model without the wrapper, which is called plain here.
"""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from timm.models import group_parameters
from torch import nn

from sseg_core.config import BackboneConfig
from sseg_core.errors import ConfigError, SsegError, did_you_mean


def create_timm_model(config: BackboneConfig, **arguments: Any) -> Any:
    """Return the timm model that `config` names, with fresh or with timm's pretrained weights.

    Args:
        config: of the model; its `weights`, `frozen` and `out_indices` are left to the caller.
        arguments: of timm.create_model; `config.options` win over them.

    Raises:
        ConfigError: timm does not know the model, or cannot build it with these arguments.
        SsegError: the pretrained weights are neither cached nor reachable.
    """
    if not timm.is_model(config.name):
        raise ConfigError(
            f"timm {timm.__version__} has no model {config.name!r}.", _name_hint(config.name)
        )
    if config.pretrained and config.weights is not None:
        raise ConfigError(
            "backbone.pretrained and backbone.weights name two different starts.", "Set one only."
        )
    arguments = {"pretrained": config.pretrained, **arguments, **config.options}
    try:
        try:
            # Models with windows or position tables take it, and need it for any image size.
            model = timm.create_model(config.name, **{"dynamic_img_size": True, **arguments})
        except TypeError:
            # The others refuse the unknown argument before they build anything.
            model = timm.create_model(config.name, **arguments)
    except OSError as error:
        raise SsegError(
            f"The pretrained weights of {config.name} are not available: {_first_line(error)}",
            "Connect once so that they get cached, or give a file with --set "
            "model.backbone.weights=FILE and --set model.backbone.pretrained=false.",
        ) from error
    except (AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
        # Constructors of a thousand models refuse their arguments each in its own way.
        raise ConfigError(
            f"timm cannot build {config.name}: {_first_line(e)}",
            "Check backbone.options, backbone.out_indices and backbone.pretrained.",
        ) from e
    return model


def create_plain_model(config: BackboneConfig) -> Any:
    """Return the model behind the feature levels of `config`, fresh and without a classifier.

    The random numbers that it takes are given back: what is made next is what it was.
    """
    with torch.random.fork_rng(devices=[]):
        fresh = config.model_copy(update={"pretrained": False})
        return create_timm_model(fresh, num_classes=0)


def names_in_body(plain: nn.Module, body: nn.Module) -> dict[str, str]:
    """Return the name in `body` of each tensor of its plain model that `body` has kept.

    Args:
        plain: see `create_plain_model`.
        body: the `features_only` model of the same configuration.

    Raises:
        ConfigError: timm has renamed them in a way that is not known here.
    """
    kept = body.state_dict().keys()
    places = {
        name: place
        for name in plain.state_dict()
        # As it was, inside a wrapper, or taken out of the Sequential that it was in.
        for place in (name, f"model.{name}", f"body.{name}", name.replace(".", "_", 1))
        if place in kept
    }
    if unknown := kept - set(places.values()):
        raise ConfigError(
            f"{min(unknown)!r} of {type(body).__name__} is no part of {type(plain).__name__}, as "
            "far as can be told from its name.",
            "Leave backbone.weights out and set optim.layer_decay=1, or use another backbone.",
        )
    return places


def layer_depths(body: nn.Module, config: BackboneConfig) -> dict[str, int]:
    """Return at which layer, counted from the image, each parameter of `body` is.

    The order is timm's (`group_matcher`). Layers that `body` has not are not counted. Parameters
    that timm sees behind the last layer, with the classifier, are left out.

    Args:
        body: a `features_only` model.
        config: what it was made from.

    Raises:
        ConfigError: timm does not know the order of the layers of this model.
    """
    with torch.device("meta"):  # only names are wanted
        plain = create_plain_model(config)
        if not hasattr(plain, "group_matcher"):
            raise ConfigError(
                f"timm does not know the order of the layers of {config.name}.",
                "Set optim.layer_decay=1.",
            )
        plain.behind_all_layers = nn.Parameter(torch.empty(0))  # as a classifier would be
    places = names_in_body(plain, body)
    groups: dict[str, int] = group_parameters(
        plain, plain.group_matcher(coarse=False), reverse=True
    )
    behind = groups.pop("behind_all_layers")
    inside = {places[name]: n for name, n in groups.items() if name in places and n != behind}
    ranks = {group: rank for rank, group in enumerate(sorted(set(inside.values())))}
    return {name: ranks[group] for name, group in inside.items()}


def _name_hint(name: str) -> str:
    known = timm.list_models()
    if difflib.get_close_matches(name, known, n=1):
        return did_you_mean(name, known)
    return "timm.list_models() names all that there are."


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
