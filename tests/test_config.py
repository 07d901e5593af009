"""Configurations: strict fields, overrides, files, recipes."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sseg_core.config import (
    EvalConfig,
    PseudomaskConfig,
    TrainConfig,
    build_config,
)
from sseg_core.errors import ConfigError
from sseg_core.overrides import with_file, with_overrides
from sseg_core.recipes import RECIPES, paper, recipe


def test_an_override_sets_a_nested_field_of_any_type() -> None:
    """Values are read as TOML, bare words as text, and `none` as None."""
    config = with_overrides(
        TrainConfig(),
        [
            "optim.lr=1e-4",
            "steps=20",
            "model.decoder.mask_feature=pooled",
            "model.decoder.masked_attention=true",
            "loader.crop_scale=[0.3, 1]",
            "model.backbone.options.img_size=64",
            "steps=none",
        ],
    )
    assert config.optim.lr == 1e-4
    assert config.steps is None
    assert config.model.decoder.mask_feature == "pooled"
    assert config.model.decoder.masked_attention is True
    assert config.loader.crop_scale == (0.3, 1.0)
    assert config.model.backbone.options == {"img_size": 64}
    assert config.batch_size == 4096


@pytest.mark.parametrize(
    ("assignment", "message", "hint"),
    [
        ("optim.lrr=1", "no option 'optim.lrr'", "'lr'"),
        ("stepz=1", "no option 'stepz'", "'steps'"),
        ("optim.lr=-1", "optim.lr cannot be -1", "--set optim.lr="),
        ("optim.lr=fast", "optim.lr cannot be 'fast'", ""),
        ("optim", "not of the form", "--set"),
        ("=1", "not of the form", "--set"),
        ("optim=3", "optim cannot be 3", ""),
        ("model.decoder.mask_feature=querry", "cannot be 'querry'", ""),
    ],
)
def test_a_wrong_override_is_one_sentence_with_a_hint(
    assignment: str, message: str, hint: str
) -> None:
    """Every mistake names the option and what to do."""
    with pytest.raises(ConfigError, match=message) as error:
        with_overrides(TrainConfig(), [assignment])
    assert hint in error.value.hint


@given(st.text())
def test_no_assignment_raises_anything_but_a_config_error(text: str) -> None:
    """Whatever is typed after --set, the outcome is a configuration or a ConfigError."""
    with contextlib.suppress(ConfigError):
        assert isinstance(with_overrides(PseudomaskConfig(), [text]), PseudomaskConfig)


@pytest.mark.parametrize("suffix", [".json", ".toml"])
def test_a_file_sets_fields(tmp_path: Path, suffix: str) -> None:
    """TOML and JSON files are read, with a BOM and Windows line ends as well."""
    path = tmp_path / f"config{suffix}"
    text = '{"steps": 7,\r\n "optim": {"lr": 0.1}}' if suffix == ".json" else "steps = 7\r\n"
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert with_file(TrainConfig(), path).steps == 7


@pytest.mark.parametrize(
    ("name", "text"), [("a.json", "{"), ("a.toml", "= 3"), ("a.json", "[1]"), ("a.toml", "no = 1")]
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, name: str, text: str) -> None:
    """A malformed file, or one with an unknown field, is a ConfigError."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError):
        with_file(TrainConfig(), tmp_path / name)


def test_a_missing_file_is_one_sentence(tmp_path: Path) -> None:
    """The path stands in the message."""
    with pytest.raises(ConfigError, match=r"gone\.toml"):
        with_file(TrainConfig(), tmp_path / "gone.toml")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    """A manifest keeps a configuration as JSON; reading it back gives an equal one."""
    config = recipe(name)
    assert config.recipe == name
    assert build_config(TrainConfig, json.loads(config.model_dump_json())) == config


def test_an_unknown_recipe_suggests_one() -> None:
    """`tny` means `tiny`."""
    with pytest.raises(ConfigError, match="no recipe 'tny'") as error:
        recipe("tny")
    assert error.value.hint == "Did you mean 'tiny'?"


def test_the_paper_recipe_holds_every_value_of_the_paper() -> None:
    """Table 5, App. A.1, Eq. 1 and Eq. 4, written out here a second time."""
    config = paper()
    assert config.model.backbone.name.startswith("swin_small")
    decoder = config.model.decoder
    assert (decoder.num_queries, decoder.hidden_dim, decoder.layers) == (64, 256, 6)
    assert decoder.mask_feature == "query"
    assert not decoder.masked_attention
    text = config.model.text
    assert (text.layers, text.width, text.context_length) == (12, 256, 77)
    assert config.model.embed_dim == 256
    optim = config.optim
    assert (optim.lr, optim.weight_decay, optim.betas) == (5e-4, 0.05, (0.9, 0.999))
    assert (config.batch_size, config.epochs, optim.warmup_epochs) == (4096, 30, 2)
    assert config.loader.crop_size == 224
    assert config.loader.caption_words == "nouns_verbs"
    loss = config.loss
    assert (loss.mask, loss.contrastive, loss.dice, loss.focal) == (1, 1, 1, 20)
    assert PseudomaskConfig().masks == 8


def test_a_configuration_is_immutable() -> None:
    """Nothing downstream can change what the manifest will say."""
    with pytest.raises(ValueError, match="frozen"):
        EvalConfig().benchmark = "other"  # type: ignore[misc]
