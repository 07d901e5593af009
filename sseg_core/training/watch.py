"""Warns of a run that goes wrong, from the numbers that are logged anyway.

A run that diverges or learns nothing stays finite for hours, so `guard.py` has nothing to stop.
All thresholds are our choice, not in the paper; they were set on simulated and real curves such
that noise alone does not warn (tests/training/test_watch.py).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

from sseg_core.models.embedding import LARGEST_SCALE

WINDOW = 30
"""Logged values that say what is normal; a spike is looked for once there are as many."""
RECENT = 5
"""Logged values whose median is compared with them: one bad batch is noise, not a spike."""
SPREADS = 3.5
"""How many standard deviations of a single value above normal is a spike."""
LOSS_FACTOR = 1.5
"""A spike of the loss is at least this high above normal, however quiet it was before."""
GRADIENT_FACTOR = 5.0
"""A spike of the gradient norm likewise; it drifts more in a run that goes well."""
LIMIT_LOGS = 20
"""Logged values in a row after which a scale at its limit is said to stay there."""
SMALLEST_SCALE = 1.0
"""Below it all cosine similarities look alike to the softmax of the contrastive loss."""
GUESSING_LOGS = 50
"""Logged values over which a contrastive loss must fall, or be below that of guessing."""
CHANCE = 0.98
"""A contrastive loss above this share of that of guessing, or of before, has learnt nothing."""

# Of normal noise: its standard deviation, where the median of |difference of neighbours| is 1.
_DEVIATIONS_PER_DIFFERENCE = 1.4826 / math.sqrt(2)


class LossWatch:
    """Looks at every logged step, and says once what looks wrong.

    Args:
        batch_size: images that are told apart by their captions: those of all processes.
        warmup_steps: until when a contrastive loss as of guessing is nothing to worry about.
    """

    def __init__(self, batch_size: int, warmup_steps: int) -> None:
        self._warmup_steps = warmup_steps
        self._chance = 2 * math.log(batch_size)  # both directions are summed, S-Seg Eq. 2-3
        self._loss = _Jumps(LOSS_FACTOR)
        self._grad_norm = _Jumps(GRADIENT_FACTOR)
        self._contrastive: deque[float] = deque(maxlen=GUESSING_LOGS)
        self._logs_at_limit = 0
        self._said: set[str] = set()

    def update(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Take in the numbers of a logged step, and return a sentence for each new concern.

        Args:
            step: whose numbers they are.
            values: of `loss`, `grad_norm`, `logit_scale` and `contrastive`, those there are.
        """
        found = [
            self._jump(self._loss, "the loss", step, values.get("loss")),
            self._jump(self._grad_norm, "the gradient norm", step, values.get("grad_norm")),
        ]
        if "logit_scale" in values:
            found.append(self._scale(step, values["logit_scale"]))
        if "contrastive" in values and step >= self._warmup_steps:
            found.append(self._guessing(step, values["contrastive"]))
        return [sentence for sentence in found if sentence is not None]

    def state_dict(self) -> dict[str, Any]:
        """Return all that it remembers, as plain lists and numbers."""
        return {
            "loss": list(self._loss.values),
            "grad_norm": list(self._grad_norm.values),
            "contrastive": list(self._contrastive),
            "logs_at_limit": self._logs_at_limit,
            "said": sorted(self._said),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        self._loss.values = deque(state["loss"], maxlen=WINDOW + RECENT)
        self._grad_norm.values = deque(state["grad_norm"], maxlen=WINDOW + RECENT)
        self._contrastive = deque(state["contrastive"], maxlen=GUESSING_LOGS)
        self._logs_at_limit = state["logs_at_limit"]
        self._said = set(state["said"])

    def _jump(self, jumps: _Jumps, name: str, step: int, value: float | None) -> str | None:
        if value is None or not math.isfinite(value):  # fp16 passes over overflowing gradients
            return None
        seen = jumps.update(value)
        if seen is None:
            return None
        now, normal = seen
        return (
            f"{name} has jumped to {now:.3g} at step {step}, {now / normal:.1f} times its median "
            f"of {normal:.3g} before; if it stays up, train with a lower optim.lr or a longer "
            "optim.warmup_steps."
        )

    def _scale(self, step: int, scale: float) -> str | None:
        # What was said is said again only after the scale has clearly left.
        at_limit = scale > 0.99 * LARGEST_SCALE
        self._logs_at_limit = self._logs_at_limit + 1 if at_limit else 0
        if scale < 0.9 * LARGEST_SCALE:
            self._said.discard("limit")
        if scale > 2 * SMALLEST_SCALE:
            self._said.discard("small")
        if self._logs_at_limit >= LIMIT_LOGS and self._first("limit"):
            return (
                f"the temperature scale has been at its limit of {LARGEST_SCALE:.0f} for "
                f"{LIMIT_LOGS} logged steps at step {step}, which is usual late in a long run; "
                "early in one, lower optim.lr or train on more pairs."
            )
        if scale < SMALLEST_SCALE and self._first("small"):
            return (
                f"the temperature scale has fallen to {scale:.2g} at step {step}, and below "
                f"{SMALLEST_SCALE:.0f} the contrastive loss hardly learns; lower optim.lr, and "
                "check that the captions belong to their images."
            )
        return None

    def _guessing(self, step: int, contrastive: float) -> str | None:
        self._contrastive.append(contrastive)
        if len(self._contrastive) < GUESSING_LOGS:
            return None
        values, half = list(self._contrastive), GUESSING_LOGS // 2
        before, now = median(values[:half]), median(values[half:])
        if now < 0.95 * self._chance:
            self._said.discard("guessing")
        if now < CHANCE * max(self._chance, before) or not self._first("guessing"):
            return None
        return (
            f"the contrastive loss is {now:.3g} at step {step} (median of {half} logged "
            f"steps), where guessing gives {self._chance:.3g}, so no caption is found from its "
            "image; lower optim.lr, and check that the captions belong to their images."
        )

    def _first(self, concern: str) -> bool:
        is_first = concern not in self._said
        self._said.add(concern)
        return is_first


class _Jumps:
    """Finds where the recent values of a noisy positive curve leave its usual range upwards.

    Ratios are compared, not differences: the noise of a loss shrinks with the loss. What is noise
    is taken from the differences of neighbours, for a falling curve spreads without any.

    Attributes:
        values: the last logged ones, which start anew after each jump. So a jump is told once,
            and the level it leads to, if it stays, becomes the normal one.
    """

    def __init__(self, factor: float) -> None:
        self._least = math.log(factor)
        self.values: deque[float] = deque(maxlen=WINDOW + RECENT)

    def update(self, value: float) -> tuple[float, float] | None:
        """Take in a value; return the recent and the normal one where a jump is found."""
        self.values.append(value)
        if len(self.values) < WINDOW + RECENT:
            return None
        logs = [math.log(max(value, 1e-12)) for value in self.values]
        before, recent = logs[:-RECENT], median(logs[-RECENT:])
        normal = median(before)
        noise = _DEVIATIONS_PER_DIFFERENCE * median(abs(b - a) for a, b in pairwise(before))
        if recent - normal <= max(SPREADS * noise, self._least):
            return None
        self.values.clear()
        return math.exp(recent), math.exp(normal)
