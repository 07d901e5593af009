"""The student: any backbone, any size, gradients everywhere, rates as BEiT's, clear refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import BeitConfig, BeitForSemanticSegmentation

from sseg_core.config import BackboneConfig, OptimConfig, StudentLossConfig, UperNetConfig
from sseg_core.errors import ConfigError
from sseg_core.losses.segmentation import segmentation_loss
from sseg_core.models import student as module
from sseg_core.models.student import Student, build_student, with_synced_batch_norm
from sseg_core.training.optimizer import make_optimizer

CLASSES = ("cat", "dog", "grass")


def _vit(
    name: str = "vit_tiny_patch16_224", out_indices: tuple[int, ...] = (0, 1, 2, 3), **options: Any
) -> BackboneConfig:
    sizes = {"depth": 4, "embed_dim": 24, "num_heads": 2, "img_size": 64}
    return BackboneConfig(name=name, out_indices=out_indices, options={**sizes, **options})


BACKBONES = {
    "vit": (_vit(), 4),
    "vit-patch-14": (_vit("vit_small_patch14_dinov2", img_size=56), 4),
    "vit-patch-8": (_vit("vit_small_patch8_224"), 2),
    "convnext": (BackboneConfig(name="convnext_atto"), 4),
    "swin": (
        BackboneConfig(
            name="swin_tiny_patch4_window7_224",
            options={"embed_dim": 12, "depths": [1, 1, 2, 1], "num_heads": [1, 1, 2, 2]},
        ),
        4,
    ),
    "resnet": (BackboneConfig(name="resnet10t", out_indices=(1, 2, 3, 4)), 4),
    "resnet-three-levels": (BackboneConfig(name="resnet10t", out_indices=(1, 2, 3)), 4),
    "resnet-all": (BackboneConfig(name="resnet10t"), 2),
}


def _config(backbone: BackboneConfig, **changes: Any) -> UperNetConfig:
    sizes = {"channels": 16, "auxiliary_channels": 8, "class_names": CLASSES}
    return UperNetConfig(backbone=backbone, **{**sizes, "has_background": True, **changes})


def _images(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


def _student(backbone: BackboneConfig, **changes: Any) -> Student:
    torch.manual_seed(0)
    return build_student(_config(backbone, **changes))


@pytest.mark.parametrize("frozen", [False, True], ids=["", "frozen"])
@pytest.mark.parametrize("name", BACKBONES)
def test_every_parameter_that_learns_gets_a_gradient(name: str, frozen: bool) -> None:
    """One training step reaches all of them: DistributedDataParallel would wait for the others."""
    backbone, _ = BACKBONES[name]
    student = _student(backbone.model_copy(update={"frozen": frozen}))
    labels = torch.randint(-2, 3, (2, 64, 96), dtype=torch.int16)
    output = student(_images(2, 3, 64, 96))
    segmentation_loss(output, labels, StudentLossConfig()).total.backward()
    without = [n for n, p in student.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    trained = {n for n, p in student.named_parameters() if p.requires_grad}
    assert any(n.startswith("backbone.body") for n in trained) != frozen
    if name != "resnet-three-levels":
        assert {n.split(".")[0] for n in trained} >= {"head", "auxiliary_head"}


@pytest.mark.parametrize("size", [(64, 64), (37, 90), (1, 1), (3, 130)], ids=str)
@pytest.mark.parametrize("name", BACKBONES)
def test_images_of_any_size_have_whole_cells(name: str, size: tuple[int, int]) -> None:
    """[B, C, ceil(H / stride), ceil(W / stride)] float32, the classes and background."""
    backbone, stride = BACKBONES[name]
    student = _student(backbone).eval()
    with torch.inference_mode():
        output = student(_images(2, 3, *size))
    assert output.stride == student.stride == stride
    cells = tuple(-(-pixels // stride) for pixels in size)
    assert output.logits.shape == (2, 4, *cells)
    assert output.logits.dtype == torch.float32
    assert output.logits.isfinite().all()
    assert output.auxiliary is None


@pytest.mark.parametrize("name", ["vit", "vit-patch-14", "convnext"])
def test_padding_is_the_mean_colour(name: str) -> None:
    """An image that the caller has padded with it has the same logits, but for what sticks out."""
    student = _student(BACKBONES[name][0]).eval()
    images = _images(1, 3, 40, 50)
    size = (56, 56) if name == "vit-patch-14" else (64, 64)
    by_hand = student.mean.expand(1, 3, *size).clone()
    by_hand[..., :40, :50] = images
    with torch.inference_mode():
        whole = student(by_hand).logits
        logits = student(images).logits
    torch.testing.assert_close(logits, whole[..., : logits.shape[2], : logits.shape[3]])


@pytest.mark.parametrize("name", ["vit", "vit-patch-14", "swin", "resnet-all"])
def test_cells_lie_where_their_pixels_are(name: str) -> None:
    """What changes in a corner of the image changes the logits most in that corner."""
    student = _student(BACKBONES[name][0], pool_sizes=(6,)).eval()
    side = 112
    images = _images(1, 3, side, side)
    changed = images.clone()
    changed[..., 84:, :28] = 1 - changed[..., 84:, :28]
    with torch.inference_mode():
        difference = (student(changed).logits - student(images).logits).abs().sum(1)[0]
    row, column = divmod(int(difference.argmax()), difference.shape[1])
    assert row >= 0.6 * difference.shape[0]
    assert column < 0.4 * difference.shape[1]


def test_in_training_both_heads_cover_the_padded_image() -> None:
    """The coarse cells of the auxiliary head lie over the same pixels as those of the logits."""
    student = _student(BACKBONES["vit"][0])
    output = student(_images(2, 3, 33, 70))
    assert output.logits.shape == (2, 4, 64 // 4, 96 // 4)
    assert output.auxiliary is not None
    assert output.auxiliary.shape == (2, 4, 64 // 16, 96 // 16)
    without = _student(BACKBONES["vit"][0], auxiliary=False)
    assert without(_images(2, 3, 33, 70)).auxiliary is None
    assert not [name for name in without.state_dict() if "auxiliary" in name]


def test_images_do_not_depend_on_their_neighbours_in_eval_mode() -> None:
    """Together and alone an image has the same logits."""
    student = _student(BACKBONES["convnext"][0])
    student(_images(4, 3, 64, 64))
    student.eval()
    images = _images(3, 3, 64, 64)
    with torch.inference_mode():
        together, alone = student(images).logits, student(images[1:2]).logits
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_under_autocast_logits_are_finite_float32(training: bool) -> None:
    """bfloat16 inside, float32 outside, and close to what float32 gives."""
    student = _student(BACKBONES["vit"][0], dropout=0.0).train(training)
    images = _images(4, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        half = student(images)
    full = student(images)
    pairs = [(half.logits, full.logits)]
    if training:
        pairs.append((half.auxiliary, full.auxiliary))
    for actual, expected in pairs:
        assert actual.dtype == torch.float32
        assert (actual - expected).norm() < 0.1 * expected.norm()
        assert not torch.equal(actual, expected)


class _Maps(nn.Module):
    """A backbone that returns what it was given, whatever the image."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.maps)


def _named_as_in_transformers(name: str) -> str:
    for pattern, replacement in (
        (r"^pyramid\.four_times\.0", "fpn.fpn1.conv_transpose1"),
        (r"^pyramid\.four_times\.1", "fpn.fpn1.normalization"),
        (r"^pyramid\.four_times\.3", "fpn.fpn1.conv_transpose2"),
        (r"^pyramid\.twice", "fpn.fpn2"),
        (r"^head\.", "decode_head."),
        (r"\.pools\.(\d)\.1\.", r".psp_modules.blocks.\1.conv."),
        (r"\.pooled\.", ".psp_bottleneck."),
        (r"\.laterals\.", ".lateral_convs."),
        (r"\.smoothings\.", ".fpn_convs."),
        (r"\.fusion\.", ".fpn_bottleneck."),
        (r"^auxiliary_head\.convolution\.", "auxiliary_head.convs.0."),
        (r"^(decode_head|auxiliary_head)\.(.*)\.0\.(?=\w+$)", r"\1.\2.convolution."),
        (r"^(decode_head|auxiliary_head)\.(.*)\.1\.(?=\w+$)", r"\1.\2.normalization."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


@pytest.mark.parametrize("training", [True, False], ids=["training", "eval"])
def test_behind_the_backbone_it_is_beits_segmenter(training: bool) -> None:
    """From four maps of a ViT to the logits of both heads, as transformers computes them."""
    torch.manual_seed(0)
    theirs = BeitForSemanticSegmentation(
        BeitConfig(
            hidden_size=24, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
            image_size=64, num_labels=4, out_indices=[1, 2, 3, 4], auxiliary_channels=8,
        )
    ).train(training)  # fmt: skip
    student = _student(_vit(), channels=24, dropout=0.0).train(training)
    source = theirs.state_dict()
    names = {
        name: _named_as_in_transformers(name)
        for name in student.state_dict()
        if not name.startswith("backbone")
    }
    assert set(names.values()) == {name for name in source if not name.startswith("beit")}
    student.load_state_dict({n: source[other] for n, other in names.items()}, strict=False)

    maps = [torch.randn(2, 24, 4, 6, requires_grad=True) for _ in range(4)]
    student.backbone = _Maps(maps)
    output = student(_images(2, 3, 64, 96))
    levels = theirs.fpn(tuple(maps))
    expected = [theirs.decode_head(list(levels))]
    actual = [output.logits]
    if training:
        expected.append(theirs.auxiliary_head(list(levels)))
        actual.append(output.auxiliary)
    gradients = []
    for logits in (actual, expected):
        loss = sum(part.sin().mean() for part in logits)
        gradients.append(torch.autograd.grad(loss, maps, retain_graph=True))
    for a, b in zip([*actual, *gradients[0]], [*expected, *gradients[1]], strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def _layer_in_beit(name: str) -> int:
    """`get_num_layer_for_vit` of BEiT's LayerDecayOptimizerConstructor, for 12 blocks."""
    if name in ("backbone.cls_token", "backbone.mask_token", "backbone.pos_embed"):
        return 0
    if name.startswith("backbone.patch_embed"):
        return 0
    if name.startswith("backbone.blocks"):
        return int(name.split(".")[2]) + 1
    return 13


def test_learning_rates_are_those_of_beit() -> None:
    """0.7^13 for what is before the blocks, 0.7^(12 - i) for block i, 1 behind them."""
    student = _student(_vit(out_indices=(3, 5, 7, 11), depth=12, embed_dim=8))
    optimizer = make_optimizer(student, OptimConfig(lr=1e-4, weight_decay=0.05, layer_decay=0.7))
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    seen = set()
    for name, parameter in student.named_parameters():
        group = groups.pop(id(parameter))
        plain = re.sub(r"^backbone\.body\.model\.", "backbone.", name)
        layer = _layer_in_beit(plain)
        seen.add(layer)
        assert group["lr"] == pytest.approx(1e-4 * 0.7 ** (13 - layer)), name
        # No decay on vectors, positions and the class token.
        is_exempt = parameter.ndim == 1 or plain in ("backbone.cls_token", "backbone.pos_embed")
        assert group["weight_decay"] == (0 if is_exempt else 0.05), name
    assert seen == set(range(14))
    assert not groups


def _grouped(monkeypatch: pytest.MonkeyPatch, world_size: int) -> None:
    monkeypatch.setattr(module, "world_size", lambda: world_size)


def test_batch_norms_are_synced_on_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """With several processes on GPUs all norms are, and weights and names are what they were."""
    student = _student(BACKBONES["resnet"][0])
    before = dict(student.named_parameters())
    names = list(student.state_dict())
    gpu = torch.device("cuda")
    assert with_synced_batch_norm(student, gpu) is student
    _grouped(monkeypatch, 2)
    with_synced_batch_norm(student, torch.device("cpu"))
    norms = nn.modules.batchnorm._BatchNorm
    assert not any(isinstance(part, nn.SyncBatchNorm) for part in student.modules())
    count = sum(isinstance(part, norms) for part in student.modules())

    synced = with_synced_batch_norm(student, gpu)
    assert sum(isinstance(part, nn.SyncBatchNorm) for part in synced.modules()) == count > 10
    assert list(synced.state_dict()) == names
    assert all(parameter is before[name] for name, parameter in synced.named_parameters())


def test_syncing_keeps_the_activation_of_timms_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm that has an activation in it still has it; torch's own converter would drop it."""
    _grouped(monkeypatch, 2)
    student = _student(BackboneConfig(name="mobilenetv3_small_050")).eval()
    images = _images(1, 3, 64, 64)
    expected = student(images).logits
    synced = with_synced_batch_norm(student, torch.device("cuda"))
    assert any(isinstance(part, nn.SyncBatchNorm) for part in synced.backbone.modules())
    torch.testing.assert_close(synced(images).logits, expected)


def test_a_single_image_is_refused_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """BatchNorm behind a pool of one cell needs a second; other pools and eval mode do not."""
    backbone = BACKBONES["vit"][0]
    image = _images(1, 3, 64, 64)
    with pytest.raises(ConfigError, match="BatchNorm cannot learn") as caught:
        _student(backbone)(image)
    assert "batch_size" in caught.value.hint
    assert _student(backbone, pool_sizes=(2, 3))(image).logits.isfinite().all()
    assert _student(backbone).eval()(image).logits.isfinite().all()
    _grouped(monkeypatch, 2)  # on a CPU, where nothing is synced
    with pytest.raises(ConfigError, match="BatchNorm cannot learn"):
        _student(backbone)(image)


@pytest.mark.parametrize(
    ("backbone", "changes", "message", "hint"),
    [
        (_vit(), {"class_names": ()}, "no classes", "sseg selftrain"),
        (_vit(), {"class_names": ("cat",), "has_background": False}, "one class", "background"),
        (_vit(out_indices=(1, 3)), {}, "4 maps of one size, and the backbone returns 2", "3, 5, 7"),
        (_vit(out_indices=None), {}, "the backbone returns 3", "model.backbone.out_indices"),
        (BackboneConfig(name="resnet10t", out_indices=(4,)), {}, "returns 1", "several sizes"),
        (
            BackboneConfig(name="resnet10t", out_indices=(1, 2)),
            {},
            "3 levels or more, and the backbone returns 2",
            "leave it out for all",
        ),
    ],
)
def test_a_student_that_cannot_be_built_is_refused(
    backbone: BackboneConfig, changes: dict[str, Any], message: str, hint: str
) -> None:
    """One sentence says what is missing, the hint where it comes from."""
    if backbone.out_indices is None:
        backbone = backbone.model_copy(update={"out_indices": None})
    with pytest.raises(ConfigError) as caught:
        build_student(_config(backbone, **changes))
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_one_class_and_background_are_enough() -> None:
    """Two channels: the class first, background last."""
    student = _student(BACKBONES["convnext"][0], class_names=("cat",)).eval()
    assert student(_images(1, 3, 32, 32)).logits.shape[1] == 2


def test_it_learns_images_by_heart() -> None:
    """A few steps on one batch and the labels come out, background among them."""
    student = _student(BACKBONES["resnet"][0], dropout=0.0)
    images = torch.zeros(4, 3, 64, 64)
    labels = torch.full((4, 64, 64), -1, dtype=torch.int16)
    for turn in range(4):
        for channel, (top, left) in enumerate([(0, 0), (32, 0), (0, 32)]):
            square = slice(top, top + 32), slice(left, left + 32)
            images[turn, (channel + turn) % 3][square] = 1
            labels[turn][square] = (channel + turn) % 3
    optimizer = torch.optim.AdamW(student.parameters(), lr=5e-3)
    for _ in range(12):
        losses = segmentation_loss(student(images), labels, StudentLossConfig())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    assert losses.accuracy > 0.9
