"""Noise does not warn; what goes wrong does, once."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable, Mapping

import pytest

from sseg_core.training.watch import LossWatch

LOG_EVERY = 10


def _watch(batch_size: int = 16, warmup_steps: int = 0) -> LossWatch:
    return LossWatch(batch_size=batch_size, warmup_steps=warmup_steps)


def _warnings(
    records: Iterable[Mapping[str, float]], watch: LossWatch | None = None
) -> list[tuple[int, str]]:
    """Return which record led to which sentence."""
    watch = watch or _watch()
    return [
        (number, sentence)
        for number, record in enumerate(records)
        for sentence in watch.update(number * LOG_EVERY, record)
    ]


def _heavy_tailed(draw: random.Random) -> float:
    """Student's t with 4 degrees of freedom: one value in 500 is beyond 7 deviations of noise."""
    return draw.gauss(0, 1) / math.sqrt(sum(draw.gauss(0, 1) ** 2 for _ in range(4)) / 4)


def _run(seed: int, noise: float, logs: int) -> list[float]:
    """A loss that falls fast or slowly, with noise in proportion to it."""
    draw = random.Random(seed)
    first, last = draw.uniform(10, 20), draw.uniform(1, 8)
    pace = logs * draw.uniform(0.02, 0.5)
    levels = [last + (first - last) * math.exp(-log / pace) for log in range(logs)]
    return [level * max(0.01, 1 + noise * _heavy_tailed(draw)) for level in levels]


@pytest.mark.parametrize(("key", "noise"), [("loss", 0.1), ("loss", 0.2), ("grad_norm", 0.25)])
def test_noise_alone_does_not_warn(key: str, noise: float) -> None:
    """None of 400 noisy runs, of 120 logged steps each, brings an alarm."""
    alarmed = [s for s in range(400) if _warnings({key: v} for v in _run(s, noise, 120))]
    assert alarmed == []


@pytest.mark.parametrize(("noise", "fewest"), [(0.02, 99), (0.05, 99), (0.1, 90)])
def test_a_loss_that_doubles_is_noticed(noise: float, fewest: int) -> None:
    """Within 8 logged steps, whenever in the run it happens."""
    caught = 0
    for seed in range(100):
        at = 50 + 2 * seed
        values = [v * (1 if log < at else 2) for log, v in enumerate(_run(seed, noise, 300))]
        values = values[at - 40 : at + 8]
        found = _warnings({"loss": v} for v in values)
        caught += bool(found) and found[0][0] >= 40
    assert caught >= fewest


def test_a_spike_is_told_with_its_numbers_and_once() -> None:
    """A spike of five logged steps that recovers is one sentence; so is a step to a new level."""
    spike = [2.0] * 40 + [5.0] * 5 + [2.0] * 60
    sentence = (
        "the loss has jumped to 5 at step 420, 2.5 times its median of 2 before; if it stays up, "
        "train with a lower optim.lr or a longer optim.warmup_steps."
    )
    assert _warnings({"loss": v} for v in spike) == [(42, sentence)]
    level = [2.0] * 40 + [5.0] * 100
    assert [number for number, _ in _warnings({"loss": v} for v in level)] == [42]
    again = [*level, *[12.0] * 5]
    assert [number for number, _ in _warnings({"loss": v} for v in again)] == [42, 142]


def test_one_bad_batch_is_no_spike() -> None:
    """Not even two in a row, however bad."""
    values = [2.0] * 40 + [50.0, 50.0] + [2.0] * 40
    assert _warnings({"loss": v} for v in values) == []


def test_a_quiet_plateau_may_rise_a_little() -> None:
    """Without any noise a rise by 40 % is none of its business."""
    assert _warnings({"loss": v} for v in [2.0] * 40 + [2.8] * 40) == []


def test_a_gradient_norm_may_drift_but_not_explode() -> None:
    """It grows threefold in a run that goes well; tenfold at once is told."""
    drift = [4.0 * 3 ** (log / 60) for log in range(60)]
    assert _warnings({"grad_norm": v} for v in drift) == []
    ((number, sentence),) = _warnings({"grad_norm": v} for v in [*drift, *[120.0] * 5])
    assert number == 62
    assert sentence.startswith("the gradient norm has jumped to 120 at step 620")


def test_the_overflows_of_fp16_are_left_out() -> None:
    """Its scaler passes over steps without a finite gradient, so they are not normal either."""
    values = [4.0, math.inf, math.nan] * 30
    watch = _watch()
    assert _warnings(({"grad_norm": v} for v in values), watch) == []
    assert set(watch.state_dict()["grad_norm"]) == {4.0}


def test_a_scale_that_stays_at_its_limit_is_told_once() -> None:
    """After 20 logged steps in a row; again only after it had left."""
    scales = [99.9] * 19 + [95.0] + [100.0] * 30 + [95.0] + [100.0] * 30 + [80.0] + [100.0] * 20
    found = _warnings({"logit_scale": s} for s in scales)
    assert [number for number, _ in found] == [39, 19 + 1 + 30 + 1 + 30 + 1 + 19]
    assert found[0][1].startswith("the temperature scale has been at its limit of 100 for 20 log")


def test_a_scale_that_fell_below_one_is_told_once() -> None:
    """Around the threshold it is not said again and again."""
    scales = [14.3, 1.2, 0.95, 1.05, 0.9, 1.5, 0.5, 3.0, 0.8]
    found = _warnings({"logit_scale": s} for s in scales)
    assert [number for number, _ in found] == [2, 8]
    assert found[0][1].startswith("the temperature scale has fallen to 0.95 at step 20")


def test_guessing_is_told_after_the_warm_up() -> None:
    """Collapsed features give exactly 2 ln(batch); 50 logged steps of it are enough."""
    chance = 2 * math.log(4096)
    watch = _watch(batch_size=4096, warmup_steps=200)
    ((number, sentence),) = _warnings([{"contrastive": chance}] * 200, watch)
    assert number == 20 + 49
    assert "is 16.6 at step 690 (median of 25 logged steps), where guessing gives 16.6" in sentence


def test_a_contrastive_loss_that_comes_down_is_not_guessing() -> None:
    """It starts far above chance, and is allowed a while to fall below."""
    chance = 2 * math.log(16)
    values = [max(12.0 - 0.1 * log, 0.9 * chance) for log in range(200)]
    assert _warnings({"contrastive": v} for v in values) == []


def test_a_resumed_watch_says_what_an_uninterrupted_one_says() -> None:
    """At every record its state goes through JSON and back into another watch."""
    draw = random.Random(0)
    losses = [2.0 + 0.1 * draw.random() for _ in range(60)] + [9.0] * 50
    scales = [50.0 + log for log in range(50)] + [100.0] * 60
    records = [
        {"loss": loss, "grad_norm": 3 * loss, "logit_scale": scale, "contrastive": 6.0 + loss}
        for loss, scale in zip(losses, scales, strict=True)
    ]
    straight = _warnings(records)
    state = json.dumps(_watch().state_dict())
    resumed = []
    for number, record in enumerate(records):
        watch = _watch()
        watch.load_state_dict(json.loads(state))
        resumed += [(number, sentence) for sentence in watch.update(number * LOG_EVERY, record)]
        state = json.dumps(watch.state_dict())
    assert [number for number, _ in straight] == [49, 62, 69]
    assert resumed == straight
