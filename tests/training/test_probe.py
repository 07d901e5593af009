"""A look at held-out images in the middle of a training that must not notice it."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.checkpoint import WEIGHTS, load_weights
from sseg_core.config import (
    BackboneConfig,
    DecoderConfig,
    EvalConfig,
    LoaderConfig,
    MasksConfig,
    ModelConfig,
    ProbeConfig,
    PseudomaskConfig,
    TextConfig,
    TrainConfig,
    build_config,
)
from sseg_core.errors import ConfigError, DataError
from sseg_core.inference.word_network import give_segments
from sseg_core.models.build import Model, build_model
from sseg_core.models.sseg import SSeg
from sseg_core.stages import evaluate
from sseg_core.stages.train import as_segmenter
from sseg_core.structures import MaskOutput
from sseg_core.training.probe import Probe

CONFIG = TrainConfig(
    model=ModelConfig(
        # With batch statistics, stochastic depth and dropout: a probe could disturb each.
        backbone=BackboneConfig(
            name="resnet10t", out_indices=(1, 2, 3), options={"drop_path_rate": 0.3}
        ),
        decoder=DecoderConfig(
            num_queries=4, hidden_dim=32, layers=2, heads=2, feedforward_dim=32, dropout=0.3
        ),
        text=TextConfig(layers=1, width=32, heads=2, context_length=8),
        embed_dim=16,
    ),
    loader=LoaderConfig(load_size=32, crop_size=32),
)
TWO_SCENES = ProbeConfig(limit=2, pictures=1)


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """VOC with three images of 40 x 60 pixels, a bird on the left of each; one has no truth."""
    home = tmp_path / "VOC2012"
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (home / folder).mkdir(parents=True)
    keys = ("2007_000001", "2007_000002", "2007_000003")
    (home / "ImageSets/Segmentation/val.txt").write_text("\n".join(keys))
    truth = np.zeros((40, 60), np.uint8)
    truth[:, :20], truth[:, 20:23] = 3, 255
    pixels = np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8)
    for key in keys:
        Image.fromarray(pixels).save(home / f"JPEGImages/{key}.jpg")
        Image.fromarray(truth).save(home / f"SegmentationClass/{key}.png")
    (home / "SegmentationClass/2007_000001.png").write_bytes(b"cut short")
    return home


def _model(config: TrainConfig = CONFIG) -> Model:
    torch.manual_seed(0)
    return build_model(config.model)


def _losses(model: Model, *, between: Callable[[], object], autocast: bool) -> list[Tensor]:
    """Two steps with `between` called after each: what is left of the run, to compare."""
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        for _ in range(2):
            output = model(torch.rand(4, 3, 32, 32), torch.tensor([[3, 7, 49407]] * 4))
            loss = output.image_features.square().sum() + output.masks.mask_logits.square().mean()
            loss = loss + (output.image_features * output.text_features).sum() * output.logit_scale
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            with torch.no_grad():
                model.logit_scale.fill_(5.0)  # beyond its limit, where a forward pass clamps it
            between()
    return losses


def _generators() -> list[object]:
    numpy_state = np.random.get_state()  # noqa: NPY002 - also the global one must stay
    return [random.getstate(), str(numpy_state), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("autocast", [False, True])
def test_a_run_learns_the_same_with_probes_as_without(*, autocast: bool) -> None:
    """Weights, batch statistics, gradients, modes and every generator stay, bit for bit."""
    probe = Probe(TWO_SCENES, as_segmenter(CONFIG))

    def run(look: Callable[[Model], object]) -> tuple[Model, list[Tensor]]:
        model = _model()
        model.backbone.requires_grad_(requires_grad=False)
        model.text_encoder.eval()
        return model, _losses(model, between=lambda: look(model), autocast=autocast)

    plain, losses = run(lambda _: None)
    before = _generators()
    looked_at, losses_too = run(lambda model: (probe.score(model), probe.pictures(model)))
    assert torch.equal(torch.stack(losses), torch.stack(losses_too))
    assert _generators() == before
    state = looked_at.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in plain.state_dict().items())
    for one, other in zip(plain.modules(), looked_at.modules(), strict=True):
        assert one.training == other.training
    for one, other in zip(plain.parameters(), looked_at.parameters(), strict=True):
        assert one.requires_grad == other.requires_grad
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or torch.equal(one.grad, other.grad)
    assert looked_at.training
    assert not looked_at.text_encoder.training


def test_a_network_that_draws_numbers_gets_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a network draws while it is scored does not move torch's generator."""
    model, encode = _model(), SSeg.encode_images

    def encode_with_noise(self: SSeg, images: Tensor) -> MaskOutput:
        return encode(self, images + 0.01 * torch.rand_like(images))

    monkeypatch.setattr(SSeg, "encode_images", encode_with_noise)
    before = _generators()
    Probe(TWO_SCENES, as_segmenter(CONFIG)).score(model)
    assert _generators() == before


def test_a_probe_restores_the_model_when_it_fails(voc: Path) -> None:
    """The files are gone: one sentence says so, and the model goes on learning."""
    probe = Probe(ProbeConfig(benchmark="voc2012", root=str(voc), limit=3), as_segmenter(CONFIG))
    shutil.rmtree(voc)
    model = _model()
    with pytest.raises(DataError, match="No image of voc2012 c"):
        probe.score(model)
    with pytest.raises(DataError, match="No image of voc2012 can be read"):
        probe.pictures(model)
    assert all(module.training for module in model.modules())


def test_the_score_is_that_of_eval(
    tmp_path: Path, voc: Path, make_checkpoint: Callable[[ArtifactStore], Artifact]
) -> None:
    """`sseg eval` on the same first images says the same, from a model in training mode."""
    store = ArtifactStore(tmp_path)
    checkpoint = make_checkpoint(store)
    config = build_config(TrainConfig, checkpoint.manifest.config)
    model = build_model(config.model)
    load_weights(model, checkpoint.verified_file(WEIGHTS))
    seen = set()
    model.mask_projection.register_forward_hook(lambda *call: seen.add(call[2].dtype))
    for asked in (
        ProbeConfig(limit=3, pictures=4),
        ProbeConfig(benchmark="voc2012", root=str(voc), limit=3),
    ):
        values = {name: getattr(asked, name) for name in ("benchmark", "root", "split", "limit")}
        stats = evaluate.run(EvalConfig(**values), store, device="cpu").manifest.stats
        with torch.autocast("cpu", torch.bfloat16):  # as in training; eval has full precision
            scores = Probe(asked, as_segmenter(config)).score(model)
        assert seen == {torch.float32}
        assert scores == {"probe_miou": stats["miou"], "probe_accuracy": stats["pixel_accuracy"]}


def test_what_is_missing_is_refused_before_the_first_step(voc: Path, tmp_path: Path) -> None:
    """No such benchmark, no folder, an empty folder, or nothing but damaged files."""
    with pytest.raises(ConfigError, match="no benchmark 'voc'"):
        Probe(ProbeConfig(benchmark="voc"), as_segmenter(CONFIG))
    with pytest.raises(ConfigError, match="needs its folder"):
        Probe(ProbeConfig(benchmark="voc2012"), as_segmenter(CONFIG))
    with pytest.raises(DataError, match="There is no folder"):
        Probe(ProbeConfig(benchmark="voc2012", root=str(tmp_path / "none")), as_segmenter(CONFIG))
    with pytest.raises(DataError, match="No image of voc2012 can be read"):
        Probe(ProbeConfig(benchmark="voc2012", root=str(voc), limit=1), as_segmenter(CONFIG))


def test_pictures_leave_out_what_cannot_be_read(voc: Path) -> None:
    """Of three images one is damaged: two rows, more than the one image that is scored."""
    config = ProbeConfig(benchmark="voc2012", root=str(voc), limit=2, pictures=3)
    two = Probe(config, as_segmenter(CONFIG)).pictures(_model())
    one = Probe(config.model_copy(update={"pictures": 2}), as_segmenter(CONFIG)).pictures(_model())
    assert two.width == one.width
    assert 150 < two.height - one.height < 250  # a picture of 160 pixels and its line of text


def test_pictures_show_the_truth_of_a_benchmark_with_background(voc: Path) -> None:
    """The bird is tinted, what nobody knows is white, and background is the photo itself."""
    config = ProbeConfig(benchmark="voc2012", root=str(voc), limit=2, pictures=2)
    model = _model()
    with torch.no_grad():
        model.logit_scale.fill_(0)  # so unsure that all is background
    sheet = np.array(Probe(config, as_segmenter(CONFIG)).pictures(model)).astype(int)
    photo, prediction, truth = (sheet[48:208, left : left + 240] for left in (18, 264, 510))
    assert np.array_equal(photo, prediction)
    assert (truth[:, 81:91] == 255).all()
    assert np.array_equal(photo[:, 94:], truth[:, 94:])
    assert np.ptp(truth[:, :78] - truth[:, :78].mean(axis=2, keepdims=True), axis=(0, 1)).max() < 3


def test_a_model_that_reads_pseudo_masks_is_probed() -> None:
    """Baseline 2 segments the held-out images with the generator it was given."""
    masks = PseudomaskConfig(features="lab", clustering="kmeans", masks=4, image_size=32, grid=8)
    vit = {"patch_size": 8, "img_size": 32, "embed_dim": 32, "depth": 1, "num_heads": 2}
    config = CONFIG.model_copy(
        update={
            "masks": MasksConfig(generator=masks),
            "model": ModelConfig(
                architecture="pseudomask_vit",
                backbone=BackboneConfig(
                    name="vit_tiny_patch16_224", out_indices=(-1,), options=vit
                ),
                decoder=DecoderConfig(num_queries=4),
                text=TextConfig(layers=1, width=16, heads=2, context_length=8),
                embed_dim=16,
            ),
        }
    )
    model = _model(config)
    give_segments(model, masks)
    probe = Probe(TWO_SCENES, as_segmenter(config))
    assert 0 <= probe.score(model)["probe_miou"] <= 100
    assert probe.pictures(model).width > 3 * 240
    assert model.training
