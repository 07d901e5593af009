"""The step of a student: what its gradient depends on, and what it does not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sseg_core.config import BackboneConfig, CropConfig, StudentConfig, UperNetConfig
from sseg_core.models.student import Student, build_student
from sseg_core.structures import VOID, LabelledBatch
from sseg_core.training.learner import Means
from sseg_core.training.student_step import StudentStep, build_student_learner

CONFIG = StudentConfig(
    model=UperNetConfig(
        backbone=BackboneConfig(
            name="resnet10t",
            out_indices=(1, 2, 3, 4),
            options={"channels": [8, 8, 16, 16], "stem_width": 8},
        ),
        channels=8,
        auxiliary_channels=8,
        dropout=0.0,
        class_names=("cat", "dog", "sheep"),
        has_background=True,
    ),
    loader=CropConfig(short_side=32, crop_size=32, photometric=0.0, flip=0.0),
)
CPU = torch.device("cpu")


def _student() -> Student:
    """A network that treats each image by itself: with the statistics it has."""
    torch.manual_seed(0)
    model = build_student(CONFIG.model).train()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.eval()
    return model


def _batch() -> LabelledBatch:
    """Six images; the third has a single pixel that counts."""
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(-2, 3, (6, 32, 32), generator=draw, dtype=torch.int16)
    labels[2] = VOID
    labels[2, 5, 7] = 1
    images = torch.randint(0, 256, (6, 3, 32, 32), generator=draw, dtype=torch.uint8)
    return LabelledBatch(images, labels, tuple("abcdef"))


def _parts(batch: LabelledBatch, *sizes: int) -> list[LabelledBatch]:
    images, maps = batch.images.split(sizes), batch.label_maps.split(sizes)
    return [
        LabelledBatch(one, other, tuple(f"{number}" for number in range(len(one))))
        for one, other in zip(images, maps, strict=True)
    ]


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def _step(batches: list[LabelledBatch]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model = _student()
    means = Means(network=model, device=CPU, autocast_dtype=None, scaler=None)
    output = StudentStep(CONFIG, means)(batches)
    assert output.finite.tolist() == [True] * sum(len(batch.keys) for batch in batches)
    return _gradients(model), output.scalars


@pytest.mark.parametrize("sizes", [(3, 3), (2, 4), (2, 2, 2)])
def test_micro_batches_have_the_gradient_of_the_whole(sizes: tuple[int, ...]) -> None:
    """A pixel weighs the same wherever it is, also beside an image with a single one."""
    whole, told = _step([_batch()])
    parts, told_of_parts = _step(_parts(_batch(), *sizes))
    assert whole.keys() == parts.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    for name, value in told.items():
        torch.testing.assert_close(told_of_parts[name], value)


def test_what_the_log_tells_is_the_loss_of_torch() -> None:
    """Cross-entropy of the counted pixels, background being the last channel; and what is right."""
    batch = _batch()
    _, told = _step([batch])
    model = _student()
    output = model(batch.images.float() / 255)
    targets = torch.where(batch.label_maps == -1, 3, batch.label_maps).long()

    def entropy(logits: Tensor) -> Tensor:
        large = nn.functional.interpolate(logits, size=(32, 32), mode="bilinear")
        return nn.functional.cross_entropy(large, targets, ignore_index=VOID)

    expected = entropy(output.logits) + 0.4 * entropy(output.auxiliary)
    torch.testing.assert_close(told["loss"], expected.detach())
    assert set(told) == {"loss", "cross_entropy", "auxiliary", "accuracy"}
    best = nn.functional.interpolate(output.logits, size=(32, 32), mode="bilinear").argmax(1)
    counted = targets != VOID
    assert told["accuracy"] == pytest.approx(100 * (best == targets)[counted].float().mean().item())


def test_pixels_that_do_not_count_have_no_influence() -> None:
    """A batch of void alone leaves gradients of 0, and the guard something finite to look at."""
    batch = replace(_batch(), label_maps=torch.full((6, 32, 32), VOID, dtype=torch.int16))
    gradients, told = _step([batch])
    assert told["loss"] == 0
    assert all(not gradient.any() for gradient in gradients.values())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_gpu_has_the_gradient_of_the_cpu(dtype: torch.dtype | None) -> None:
    """In fp32 to rounding, in bf16 in direction."""
    expected, _ = _step([_batch()])
    model = _student().cuda()
    means = Means(network=model, device=torch.device("cuda"), autocast_dtype=dtype, scaler=None)
    StudentStep(CONFIG, means)([_batch()])
    found = {name: gradient.cpu() for name, gradient in _gradients(model).items()}
    one = torch.cat([gradient.flatten() for gradient in expected.values()])
    other = torch.cat([found[name].flatten() for name in expected])
    cosine = nn.functional.cosine_similarity(one, other, dim=0)
    assert cosine > (0.98 if dtype else 0.99999)


def test_a_learner_learns_a_batch_by_heart() -> None:
    """Some steps on two images bring the loss down to a fraction."""
    config = CONFIG.model_copy(
        update={"optim": CONFIG.optim.model_copy(update={"lr": 1e-2, "layer_decay": 1.0})}
    )
    learner = build_student_learner(config, CPU)
    halves = torch.zeros(2, 32, 32, dtype=torch.int16)
    halves[:, :, 16:] = -1
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images[:, 0, :, 16:] = 200
    batch = LabelledBatch(images, halves, ("a", "b"))
    losses = []
    for _ in range(40):
        learner.optimizer.zero_grad()
        losses.append(float(learner.backward([batch]).scalars["loss"]))
        learner.optimizer.step()
    assert losses[-1] < 0.2 * losses[0]
