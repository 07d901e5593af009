"""How an image and a word are shown to a model, and how its scores become labels."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from sseg_core.errors import ConfigError

Refinement = Literal["none", "pamr"]
Blend = Literal["mean", "taper"]


@dataclass(frozen=True)
class View:
    """What a protocol fixes of a model's inference; None leaves it to the model.

    Attributes:
        short_side: pixels of the short side to which the image is resized, aspect kept.
        window: side in pixels of the square windows in which the resized image is shown; 0 shows
            it whole.
        stride: pixels from one window to the next; scores of overlapping windows are averaged.
        templates: texts around a word, `{}` in its place; the word's embedding is the normalised
            mean of those of the templates.
        articles: write "an" instead of "a" before a word that needs it. The protocols of others do
            not.
        logit_scale: factor of the cosine similarities in the softmax over the words.
        min_share: classes whose share of the pixels (as a fraction of the pixels that are no
            background) is not larger take no part, as in SCLIP; their pixels go to the best of the
            others.
        refine: `pamr` lets scores follow the colours of the image (Araslanov and Roth, CVPR 2020).
        scales: sizes at which the image is looked at, as factors of the short side; probabilities
            are averaged over them.
        flip: average over the image and its mirror image, at each scale.
        blend: `mean` lets all windows of a pixel count the same, `taper` less towards their
            borders, so that no seam shows.
    """

    short_side: int | None = None
    window: int | None = None
    stride: int | None = None
    templates: tuple[str, ...] | None = None
    articles: bool = True
    logit_scale: float | None = None
    min_share: float = 0.0
    refine: Refinement = "none"
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    blend: Blend = "mean"

    def __post_init__(self) -> None:
        if self.window and self.stride and self.stride > self.window:
            raise ConfigError(
                f"Windows of {self.window} pixels that are {self.stride} apart leave gaps.",
                f"Choose a stride of at most {self.window}.",
            )
        for scale in self.scales or ():
            if not (math.isfinite(scale) and scale > 0):
                raise ConfigError(
                    f"An image cannot be looked at at {scale:g} times its size.",
                    "Choose scales above 0, such as 0.75.",
                )

    def completed(
        self,
        *,
        short_side: int,
        templates: tuple[str, ...] | None,
        logit_scale: float | None,
    ) -> View:
        """Return the view with a model's own choice for all that it leaves open.

        Without a window the image is shown whole; without a stride windows overlap by half (our
        choice, not in the paper). The image is looked at once, at its own size, unless the view
        says otherwise.

        Args:
            short_side: at which the model is used.
            templates: that it asks with; None for a model that is not asked with words.
            logit_scale: its own temperature; None likewise.
        """
        window = self.window or 0
        return replace(
            self,
            short_side=short_side if self.short_side is None else self.short_side,
            window=window,
            stride=(self.stride or max(1, window // 2)) if window else 0,
            templates=self.templates or templates,
            logit_scale=logit_scale if self.logit_scale is None else self.logit_scale,
            scales=self.scales or (1.0,),
            flip=bool(self.flip),
        )

    def without_words(self) -> View:
        """Return the view of a model that is not asked with words."""
        return replace(self, templates=None, articles=True, logit_scale=None)
