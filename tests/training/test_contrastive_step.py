"""Micro-batches give the gradient of the whole batch, with the same randomness, in less memory."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sseg_core.config import (
    BackboneConfig,
    DecoderConfig,
    LoaderConfig,
    LossConfig,
    ModelConfig,
    PseudomaskConfig,
    TextConfig,
)
from sseg_core.data.augment import Augmentation
from sseg_core.losses.criterion import criterion
from sseg_core.models.build import build_model
from sseg_core.models.embedding import Model
from sseg_core.pseudomask.generator import PseudoMaskGenerator
from sseg_core.structures import IGNORE_LABEL, Batch, MaskOutput, SegmenterOutput
from sseg_core.text.encoder import TextEncoder
from sseg_core.training.contrastive_step import ContrastiveStep
from sseg_core.training.step_output import StepOutput

K = 4
CPU = torch.device("cpu")
SWIN: dict[str, Any] = {
    "embed_dim": 16,
    "depths": (1, 1),
    "num_heads": (1, 2),
    "window_size": 4,
    "drop_path_rate": 0.0,
}
WHOLE_IMAGES = LoaderConfig(
    load_size=32, crop_size=32, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flip=0.0
)
RANDOM_CROPS = LoaderConfig(load_size=32, crop_size=32, color_jitter=0.3)


def _model(
    backbone: BackboneConfig | None = None, architecture: str = "sseg", **decoder: Any
) -> Model:
    """A network without BatchNorm and, unless asked for, without randomness."""
    torch.manual_seed(0)
    sizes = {"num_queries": 6, "hidden_dim": 32, "layers": 2, "heads": 2, "feedforward_dim": 32}
    swin = BackboneConfig(name="swin_tiny_patch4_window7_224", out_indices=(0, 1), options={**SWIN})
    return build_model(
        ModelConfig(
            architecture=architecture,
            backbone=backbone or swin,
            decoder=DecoderConfig(**{**sizes, "dropout": 0.0, **decoder}),
            text=TextConfig(layers=1, width=32, heads=2, context_length=8),
            embed_dim=16,
        )
    ).train()


def _batch(size: int = 8, seed: int = 0) -> Batch:
    """A batch on the host whose images have between no and four masks."""
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    label_maps = integers(K, size, 4, 4).repeat_interleave(8, 1).repeat_interleave(8, 2)
    label_maps[:2] = IGNORE_LABEL
    label_maps[2:4].clamp_(max=1)
    token_ids = integers(400, size, 6) + 1
    token_ids[:, 5] = 49407
    return Batch(
        images=integers(256, size, 3, 32, 32).to(torch.uint8),
        label_maps=label_maps.to(torch.uint8),
        token_ids=token_ids,
        keys=tuple(f"{seed}-{i}" for i in range(size)),
    )


def _in_parts(batch: Batch, parts: int) -> list[Batch]:
    size = len(batch.keys) // parts
    return [
        Batch(
            images=batch.images[start : start + size],
            label_maps=None if batch.label_maps is None else batch.label_maps[start : start + size],
            token_ids=batch.token_ids[start : start + size],
            keys=batch.keys[start : start + size],
        )
        for start in range(0, len(batch.keys), size)
    ]


def _step(
    model: Model,
    micro_batches: Sequence[Batch],
    loader: LoaderConfig = WHOLE_IMAGES,
    loss: LossConfig | None = None,
    **options: Any,
) -> StepOutput:
    """Run one step on fresh gradients."""
    model.zero_grad(set_to_none=True)
    arguments = {"generator": None, "autocast_dtype": None, "device": CPU, **options}
    step = ContrastiveStep(
        model,
        augment=Augmentation(loader),
        num_segments=K,
        loss=loss or LossConfig(),
        **arguments,
    )
    return step(micro_batches)


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _assert_same_gradients(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Each parameter's gradient differs by less than 1e-5 of its length.

    A gradient that is zero but for rounding, as that of a key's bias in attention, is measured
    by the largest one instead.
    """
    assert actual.keys() == expected.keys()
    largest = max(g.norm().item() for g in expected.values())
    errors = {
        name: (actual[name] - g).norm().item() / max(g.norm().item(), 1e-4 * largest)
        for name, g in expected.items()
    }
    assert max(errors.values()) < 1e-5, max(errors, key=errors.__getitem__)


def _assert_same_scalars(actual: StepOutput, expected: StepOutput) -> None:
    assert actual.scalars.keys() == expected.scalars.keys()
    for name, value in expected.scalars.items():
        assert actual.scalars[name].item() == pytest.approx(value.item(), rel=1e-5), name


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize(
    "decoder",
    [{}, {"mask_feature": "pooled"}, {"masked_attention": True}],
    ids=["query", "pooled", "masked-attention"],
)
def test_micro_batches_give_the_gradient_of_the_whole_batch(
    decoder: dict[str, Any], parts: int
) -> None:
    """Loss terms and every gradient are those of one piece, though masks are spread unevenly."""
    model, batch = _model(**decoder), _batch()
    expected = _step(model, [batch])
    expected_gradients = _gradients(model)
    assert set(expected_gradients) == {name for name, _ in model.named_parameters()}
    actual = _step(model, _in_parts(batch, parts))
    _assert_same_scalars(actual, expected)
    _assert_same_gradients(_gradients(model), expected_gradients)
    assert actual.keys == expected.keys == batch.keys
    assert actual.finite.tolist() == [True] * 8


def test_the_weights_of_the_loss_count_in_micro_batches_too() -> None:
    """With other lambdas, and without auxiliary losses, the gradients still agree."""
    model, batch = _model(), _batch()
    loss = LossConfig(mask=0.5, contrastive=3.0, dice=2.0, focal=5.0, auxiliary=False)
    expected = _step(model, [batch], loss=loss)
    expected_gradients = _gradients(model)
    _assert_same_scalars(_step(model, _in_parts(batch, 2), loss=loss), expected)
    _assert_same_gradients(_gradients(model), expected_gradients)


def test_gradients_are_added_to_those_that_are_there() -> None:
    """A step leaves what was in `.grad` and adds its own, as backward does."""
    model, batch = _model(), _batch()
    _step(model, _in_parts(batch, 2))
    once = _gradients(model)
    for parameter in model.parameters():
        assert parameter.grad is not None
        parameter.grad.mul_(0.5)
    ContrastiveStep(
        model,
        augment=Augmentation(WHOLE_IMAGES),
        generator=None,
        num_segments=K,
        loss=LossConfig(),
        device=CPU,
        autocast_dtype=None,
    )(_in_parts(batch, 2))
    _assert_same_gradients(_gradients(model), {name: 1.5 * g for name, g in once.items()})


class _Recorder:
    """Keeps what the network returned at each call."""

    def __init__(self, model: nn.Module) -> None:
        self.outputs: list[SegmenterOutput] = []
        model.register_forward_hook(self._see)

    def _see(self, module: nn.Module, inputs: tuple[Tensor, ...], output: SegmenterOutput) -> None:
        self.outputs.append(output)


def _random_model() -> Model:
    options = {**SWIN, "drop_path_rate": 0.3}
    backbone = BackboneConfig(
        name="swin_tiny_patch4_window7_224", out_indices=(0, 1), options=options
    )
    return _model(backbone, dropout=0.3)


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_both_passes_see_the_same_randomness(dtype: torch.dtype | None) -> None:
    """With random crops, dropout and drop-path the second pass repeats the first to the bit."""
    model = _random_model()
    recorder = _Recorder(model)
    torch.manual_seed(3)
    _step(model, _in_parts(_batch(), 2), RANDOM_CROPS, autocast_dtype=dtype)
    torch.manual_seed(4)
    _step(model, _in_parts(_batch(), 2), RANDOM_CROPS, autocast_dtype=dtype)
    first, second, again_first, again_second, other, *_ = recorder.outputs
    for cached, recomputed in ((first, again_first), (second, again_second)):
        assert not cached.image_features.requires_grad
        assert recomputed.image_features.requires_grad
        for name in ("image_features", "text_features", "logit_scale"):
            assert torch.equal(getattr(cached, name), getattr(recomputed, name)), name
        assert torch.equal(cached.masks.mask_logits, recomputed.masks.mask_logits)
    # The randomness is real: another seed gives other features.
    assert not torch.equal(first.image_features, other.image_features)


def _joined(outputs: Sequence[SegmenterOutput]) -> SegmenterOutput:
    masks = [output.masks for output in outputs]
    layers = zip(*(m.auxiliary_mask_logits for m in masks), strict=True)
    return SegmenterOutput(
        masks=MaskOutput(
            mask_logits=torch.cat([m.mask_logits for m in masks]),
            mask_features=torch.cat([m.mask_features for m in masks]),
            auxiliary_mask_logits=tuple(torch.cat(layer) for layer in layers),
            stride=masks[0].stride,
        ),
        image_features=torch.cat([output.image_features for output in outputs]),
        text_features=torch.cat([output.text_features for output in outputs]),
        logit_scale=outputs[0].logit_scale,
    )


def test_with_randomness_the_gradient_is_that_of_all_graphs_at_once() -> None:
    """Micro-batches whose graphs are all kept for one loss give the same, and end as random."""
    model, parts = _random_model(), _in_parts(_batch(), 4)
    torch.manual_seed(3)
    batches = [Augmentation(RANDOM_CROPS)(parts[0])]
    outputs = [model(batches[0].images, batches[0].token_ids)]
    for part in parts[1:]:
        batches.append(Augmentation(RANDOM_CROPS)(part))
        outputs.append(model(batches[-1].images, batches[-1].token_ids))
    label_maps = torch.cat([b.label_maps for b in batches if b.label_maps is not None])
    terms = criterion(_joined(outputs), label_maps, K, LossConfig())
    terms.total.backward()
    expected, random_state = _gradients(model), torch.get_rng_state()

    torch.manual_seed(3)
    actual = _step(model, parts, RANDOM_CROPS)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert actual.scalars["loss"].item() == pytest.approx(terms.total.item(), rel=1e-5)
    _assert_same_gradients(_gradients(model), expected)


def test_batch_norm_counts_each_micro_batch_once() -> None:
    """Its running statistics are those of one pass, and it goes on counting afterwards."""
    backbone = BackboneConfig(name="resnet10t", out_indices=(1, 2, 3))
    parts = _in_parts(_batch(), 2)
    plain, cached = _model(backbone), _model(backbone)
    with torch.no_grad():
        for part in parts:
            batch = Augmentation(WHOLE_IMAGES)(part)
            plain(batch.images, batch.token_ids)
    _step(cached, parts)
    buffers = dict(plain.named_buffers())
    assert any(name.endswith("num_batches_tracked") for name in buffers)
    for name, buffer in cached.named_buffers():
        assert torch.equal(buffer, buffers[name]), name
    _step(cached, parts[:1])
    counts = [b for name, b in cached.named_buffers() if name.endswith("num_batches_tracked")]
    assert {int(count) for count in counts} == {3}


class _Held:
    """A tensor that autograd keeps, as an object whose end can be watched."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


class _SavedBytes:
    """Counts the bytes that autograd keeps for its backward pass, and the most there were."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def pack(self, tensor: Tensor) -> _Held:
        held = _Held(tensor)
        self.now += tensor.nbytes
        self.most = max(self.most, self.now)
        weakref.finalize(held, self._free, tensor.nbytes)
        return held

    def _free(self, size: int) -> None:
        self.now -= size


def _most_saved_bytes(model: Model, micro_batches: Sequence[Batch]) -> int:
    saved = _SavedBytes()
    with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
        _step(model, micro_batches)
    assert saved.now == 0
    return saved.most


def test_memory_does_not_grow_with_the_number_of_micro_batches() -> None:
    """What is kept for the backward pass is that of one micro-batch, however many there are."""
    model, parts = _model(), _in_parts(_batch(), 4)
    four, sixteen = (_most_saved_bytes(model, parts * times) for times in (1, 4))
    assert sixteen == four
    assert _most_saved_bytes(model, [_batch()]) > 2 * four


def test_a_scaler_scales_the_gradient_of_micro_batches_alike() -> None:
    """Unscaled by a power of two, the gradients are those without a scaler."""
    model, parts = _model(), _in_parts(_batch(), 2)
    _step(model, parts)
    expected = _gradients(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    output = _step(model, parts, scaler=scaler)
    scaled = _gradients(model)
    _assert_same_gradients({name: g / 1024 for name, g in scaled.items()}, expected)
    assert output.scalars["loss"] < 100  # what is logged is not scaled


class _Generator:
    """A real generator that also keeps what it was called with and what it returned."""

    def __init__(self) -> None:
        config = PseudomaskConfig(features="rgb", clustering="kmeans", masks=K, grid=8)
        self._generator = PseudoMaskGenerator(config, CPU)
        self.seen: list[tuple[Tensor, tuple[str, ...]]] = []

    def __call__(self, images: Tensor, keys: tuple[str, ...]) -> Tensor:
        self.seen.append((images, keys))
        return self._generator(images, keys)


@pytest.mark.parametrize("architecture", ["sseg", "pseudomask_vit"])
def test_online_masks_are_made_once_of_each_crop(architecture: str) -> None:
    """The generator sees the augmented images once, and the gradients are those of one piece."""
    backbone = None
    if architecture == "pseudomask_vit":
        options = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}
        backbone = BackboneConfig(
            name="vit_tiny_patch16_224", out_indices=(0,), options={**options, "img_size": 32}
        )
    model, batch = _model(backbone, architecture), dataclasses.replace(_batch(), label_maps=None)
    loss = LossConfig(mask=0.0 if model.reads_masks else 1.0)
    expected = _step(model, [batch], loss=loss, generator=_Generator())
    expected_gradients = _gradients(model)
    assert expected.scalars["dice"] > 0 or model.reads_masks

    generator = _Generator()
    actual = _step(model, _in_parts(batch, 2), loss=loss, generator=generator)
    _assert_same_scalars(actual, expected)
    _assert_same_gradients(_gradients(model), expected_gradients)
    assert [keys for _, keys in generator.seen] == [batch.keys[:4], batch.keys[4:]]
    crops = torch.cat([images for images, _ in generator.seen])
    assert torch.equal(crops, Augmentation(WHOLE_IMAGES)(batch).images)


def test_a_batch_without_any_mask_trains_the_contrastive_part() -> None:
    """All label maps ignored: mask losses of zero, and the same gradients in parts."""
    model = _model()
    batch = _batch()
    assert batch.label_maps is not None
    batch.label_maps.fill_(IGNORE_LABEL)
    expected = _step(model, [batch])
    expected_gradients = _gradients(model)
    actual = _step(model, _in_parts(batch, 2))
    assert actual.scalars["dice"] == actual.scalars["focal"] == 0
    assert actual.scalars["loss"] == actual.scalars["contrastive"]
    _assert_same_scalars(actual, expected)
    _assert_same_gradients(_gradients(model), expected_gradients)


@pytest.mark.parametrize("parts", [1, 2])
def test_samples_that_are_not_finite_are_told(parts: int) -> None:
    """A word whose embedding is not a number marks the samples that hold it, and the loss."""
    model, batch = _model(), _batch()
    batch.token_ids[:, 0] = 7
    batch.token_ids[5, 0] = 1000
    assert isinstance(model.text_encoder, TextEncoder)
    with torch.no_grad():
        model.text_encoder.token_embedding.weight[1000] = float("nan")
    output = _step(model, _in_parts(batch, parts))
    assert output.finite.tolist() == [i != 5 for i in range(8)]
    assert not output.scalars["loss"].isfinite()
