"""The schedule, and the groups of the optimiser."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn
from transformers import get_polynomial_decay_schedule_with_warmup

from sseg_core.config import BackboneConfig, DecoderConfig, ModelConfig, OptimConfig, TextConfig
from sseg_core.errors import ConfigError
from sseg_core.models.backbone import Backbone
from sseg_core.models.build import Model, build_model
from sseg_core.training.optimizer import learning_rate, make_optimizer, set_learning_rate

SWIN = BackboneConfig(
    name="swin_tiny_patch4_window7_224",
    options={"embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
)


def network(backbone: BackboneConfig, architecture: Any = "sseg") -> Model:
    """Return a small network with every kind of parameter: windows, positions, norms, tokens."""
    return build_model(
        ModelConfig(
            architecture=architecture,
            backbone=backbone,
            decoder=DecoderConfig(
                num_queries=3, hidden_dim=16, layers=1, heads=2, feedforward_dim=16
            ),
            text=TextConfig(layers=1, width=16, heads=2, context_length=6),
            embed_dim=8,
        )
    )


@pytest.fixture(scope="module")
def swin() -> Model:
    return network(SWIN)


def by_name(model: nn.Module, optimizer: torch.optim.Optimizer, key: str) -> dict[str, float]:
    """Return what the optimiser's groups hold under `key`, by parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = optimizer.param_groups
    return {names[id(p)]: group[key] for group in groups for p in group["params"]}


def test_the_schedule_is_torchs_cosine_after_a_linear_warmup() -> None:
    """Step by step equal to CosineAnnealingLR behind the warm-up."""
    config = OptimConfig(lr=0.1, min_lr=0.01)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=90, eta_min=0.01)
    rates = [learning_rate(step, 100, 10, config) for step in range(100)]
    assert rates[:10] == pytest.approx([0.01 * (step + 1) for step in range(10)])
    for rate in rates[10:]:
        assert rate == pytest.approx(cosine.get_last_lr()[0])
        optimizer.step()
        cosine.step()
    assert learning_rate(0, 1, 0, config) == 0.1


@pytest.mark.parametrize("power", [1.0, 0.9, 2.0])
def test_the_polynomial_is_that_of_transformers(power: float) -> None:
    """Step by step equal to its schedule, whose warm-up begins with a rate of 0, one step before.

    S-Seg Table 6: 1,500 iterations of warm-up, polynomial decay.
    """
    config = OptimConfig(schedule="poly", lr=1e-4, min_lr=1e-6, power=power)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    theirs = get_polynomial_decay_schedule_with_warmup(
        optimizer, num_warmup_steps=15, num_training_steps=200, lr_end=1e-6, power=power
    )
    for step in range(200):
        if step < 15:
            optimizer.step(), theirs.step()
        assert learning_rate(step, 200, 15, config) == pytest.approx(theirs.get_last_lr()[0])
        if step >= 15:
            optimizer.step(), theirs.step()
    halfway = learning_rate(15 + (200 - 15) // 2, 200, 15, config)
    assert halfway == pytest.approx(1e-6 + (1e-4 - 1e-6) * (93 / 185) ** power)


def test_without_layer_decay_there_are_two_groups(swin: Model) -> None:
    """All that learns is in one of them, once; weights first, as saved states name them."""
    groups = make_optimizer(swin, OptimConfig(weight_decay=0.05)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert [group["lr_scale"] for group in groups] == [1.0, 1.0]
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert len(ids) == len(set(ids))
    assert set(ids) == {id(parameter) for parameter in swin.parameters()}


def test_vectors_and_positions_are_not_decayed(swin: Model) -> None:
    """No decay for biases, norms, the temperature and position tables; decay for the rest."""
    optimizer = make_optimizer(swin, OptimConfig(weight_decay=0.05, layer_decay=0.9))
    decay = by_name(swin, optimizer, "weight_decay")
    exempt = {name for name, value in decay.items() if value == 0}
    assert {
        "logit_scale",
        "mask_decoder.query_position",
        "text_encoder.position_embedding",
        "backbone.body.layers_0.blocks.0.attn.relative_position_bias_table",
        "backbone.norms.0.weight",
        "mask_projection.0.bias",
    } <= exempt
    assert {
        "text_encoder.token_embedding.weight",
        "backbone.body.patch_embed.proj.weight",
        "pixel_decoder.pixel_embedding.weight",
        "mask_decoder.layers.0.cross_attention.query.weight",
        "mask_projection.0.weight",
    } <= {name for name, value in decay.items() if value == 0.05}
    assert not [name for name in decay.keys() - exempt if name.endswith("bias")]


@pytest.mark.parametrize(
    "config",
    [
        SWIN,
        BackboneConfig(name="vit_tiny_patch16_224", options={"depth": 4}),
        BackboneConfig(name="resnet10t"),
        BackboneConfig(name="convnext_atto"),
        BackboneConfig(name="mobilenetv3_small_050"),
    ],
    ids=lambda config: config.name,
)
def test_layers_are_those_of_timm(config: BackboneConfig) -> None:
    """Each parameter learns as fast as timm lets it in the whole model with its classifier."""
    plain = timm.create_model(config.name, **config.options)
    names = {id(p): name.replace(".", "_") for name, p in plain.named_parameters()}
    timms = {
        names[id(p)]: group["lr_scale"]
        for group in param_groups_layer_decay(plain, layer_decay=0.7)
        for p in group["params"]
    }
    model = nn.ModuleDict({"backbone": Backbone(config), "head": nn.Linear(2, 2)})
    ours = by_name(model, make_optimizer(model, OptimConfig(layer_decay=0.7)), "lr_scale")
    for name, scale in ours.items():
        if "backbone.body" in name:
            plain_name = name.removeprefix("backbone.body.").removeprefix("model.")
            assert scale == pytest.approx(timms[plain_name.replace(".", "_")]), name
        else:
            assert scale == 1, name
    assert min(ours.values()) < 0.7


def test_layers_are_counted_from_the_last_one_that_is_used() -> None:
    """Without the later stages, the last one that is left learns nearly at the full rate."""
    backbone = Backbone(BackboneConfig(name="resnet10t", out_indices=(1, 2)))
    model = nn.ModuleDict({"backbone": backbone})
    scales = by_name(model, make_optimizer(model, OptimConfig(layer_decay=0.5)), "lr_scale")
    assert {name.split(".")[2]: scale for name, scale in scales.items()} == {
        "conv1": 0.125,
        "bn1": 0.125,
        "layer1": 0.25,
        "layer2": 0.5,
    }


def test_the_pseudo_mask_vit_has_layers_too() -> None:
    """The other architecture's backbone decays likewise."""
    vit = BackboneConfig(name="test_vit", out_indices=(-1,))
    model = network(vit, "pseudomask_vit")
    scales = by_name(model, make_optimizer(model, OptimConfig(layer_decay=0.5)), "lr_scale")
    inside = {scale for name, scale in scales.items() if name.startswith("backbone.body")}
    assert min(inside) < max(inside) == 0.5
    assert {s for name, s in scales.items() if not name.startswith("backbone")} == {1.0}


def test_a_frozen_backbone_is_in_no_group() -> None:
    """Neither weight decay nor momentum can touch what does not learn."""
    model = network(SWIN.model_copy(update={"frozen": True}))
    optimizer = make_optimizer(model, OptimConfig(layer_decay=0.5))
    names = by_name(model, optimizer, "lr_scale")
    assert len(optimizer.param_groups) == 2
    assert {name.split(".")[1] for name in names if name.startswith("backbone")} == {"norms"}


def test_a_model_without_an_order_of_layers_is_refused() -> None:
    """timm cannot tell what comes first in it; the hint is a value that works."""
    model = nn.ModuleDict({"backbone": Backbone(BackboneConfig(name="poolformer_s12"))})
    with pytest.raises(ConfigError, match="order of the layers of poolformer_s12") as caught:
        make_optimizer(model, OptimConfig(layer_decay=0.5))
    assert "optim.layer_decay=1" in caught.value.hint
    assert len(make_optimizer(model, OptimConfig()).param_groups) == 2


def test_groups_get_their_share_of_the_rate(swin: Model) -> None:
    """`set_learning_rate` multiplies the rate with the share, however often it is called."""
    optimizer = make_optimizer(swin, OptimConfig(lr=1.0, layer_decay=0.5))
    assert {group["lr"] for group in optimizer.param_groups} >= {1.0, 0.5, 0.25}
    for rate in (0.1, 0.2):
        set_learning_rate(optimizer, rate)
        for group in optimizer.param_groups:
            assert group["lr"] == rate * group["lr_scale"]


@pytest.mark.parametrize("layer_decay", [1.0, 0.5])
def test_a_saved_state_goes_on_bit_for_bit(layer_decay: float) -> None:
    """Loaded into a new optimiser, the next steps give the same weights to the last bit."""
    config = OptimConfig(lr=0.01, layer_decay=layer_decay)
    model = nn.ModuleDict({"backbone": Backbone(SWIN), "head": nn.Conv2d(64, 1, 1)})
    optimizer = make_optimizer(model, config)

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
        torch.manual_seed(seed)
        set_learning_rate(optimizer, 0.01 * (seed + 1))
        optimizer.zero_grad()
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()

    for seed in range(2):
        train(model, optimizer, seed)
    other = copy.deepcopy(model)
    other_optimizer = make_optimizer(other, config)
    other_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for seed in range(2, 4):
        train(model, optimizer, seed)
        train(other, other_optimizer, seed)
    for (name, one), two in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two), name


def test_a_state_without_shares_is_taken(swin: Model) -> None:
    """What was saved before there were shares goes on at the full rate."""
    optimizer = make_optimizer(swin, OptimConfig())
    saved = optimizer.state_dict()
    for group in saved["param_groups"]:
        del group["lr_scale"]
    optimizer.load_state_dict(saved)
    set_learning_rate(optimizer, 0.25)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.25]
