"""How an image is shown to a model and how its answer is read: named, and kept with every score.

Scores of open-vocabulary segmenters differ by more than their models: the input size, the words
around a class name and the rule for background move them by many points. Two scores compare only
where the protocols that are stored beside them do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from sseg_core.config import AskConfig, EvalConfig, PseudomaskConfig
from sseg_core.errors import ConfigError
from sseg_core.evaluation.class_words import ClassWords, read_class_words
from sseg_core.evaluation.evaluator import Rule
from sseg_core.evaluation.examples import Benchmark
from sseg_core.evaluation.presets import Preset, load_preset
from sseg_core.evaluation.rivals.checkpoint import CheckpointRival
from sseg_core.evaluation.rivals.rival import Rival
from sseg_core.inference.combine import BACKGROUND
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary
from sseg_core.text.templates import TEMPLATE_SETS, template_texts

BackgroundRule = Literal["threshold", "words", "exclude", "class", "none"]
"""What becomes of the benchmark's background:

- threshold: predicted where the best class is less probable than the threshold; a class of the
  mIoU like any other.
- words: likewise, and also where a word for background wins.
- exclude: its pixels do not count, every other pixel gets a class (S-Seg Table 4).
- class: a class that the method tells apart itself, as the oracle does, and students that were
  taught background.
- none: the benchmark has none.
"""

_THRESHOLDED = ("threshold", "words")

_OF_WORDS = frozenset(("templates", "logit_scale", "background_words"))
"""Options that mean nothing to a model that knows fixed classes."""

_OF_THRESHOLDS = frozenset(("threshold", "background"))
"""Options that mean nothing to a model that tells background apart itself."""


@dataclass(frozen=True)
class SegmentationProtocol:
    """How a model is asked with words.

    Attributes:
        name: `sseg`, `groupvit`, `tcl` or `sclip`; see `protocols/NAME.toml`.
        version: of its definition; raised when a score could change.
        source: where it comes from.
        view: how images and words are shown; None in it is the model's own choice, None for all
            of it that the model does not tell.
        vocabulary: the words for each class.
        class_words: where the words come from: `benchmark`, `protocol` or a file.
        background: see `BackgroundRule`.
        threshold: confidence below which a pixel is background; 0 where none is predicted.
        tuned_on_split: the threshold was chosen on the images that are scored.
        changed: what the user asked to be otherwise.
    """

    name: str
    version: int
    source: str
    view: View | None
    vocabulary: Vocabulary
    class_words: str
    background: BackgroundRule
    threshold: float
    tuned_on_split: bool = False
    changed: tuple[str, ...] = ()

    @property
    def rule(self) -> Rule:
        """What the evaluator does with background."""
        return Rule(exclude=self.background == "exclude", threshold=self.threshold)

    def seen_by(self, view: View | None) -> SegmentationProtocol:
        """Return the protocol with what the model chose for itself filled in."""
        return replace(self, view=view)

    def followed_by(self, rival: Rival) -> SegmentationProtocol:
        """Return the protocol as a model follows it, and refuse what it cannot follow.

        That is `seen_by`, and for students what is not up to the protocol: they are not asked with
        words, and one that was taught background tells it apart without a threshold. What it
        leaves aside of the user's changes is none of them.

        Raises:
            ConfigError: a student does not know one of the classes.
        """
        protocol = self.seen_by(rival.view)
        if not isinstance(rival, CheckpointRival) or rival.takes_words:
            return protocol
        rival.check(self.vocabulary)
        left_aside = _OF_WORDS
        if self.background in _THRESHOLDED and rival.tells_background:
            left_aside |= _OF_THRESHOLDS
            protocol = replace(protocol, background="class", threshold=0.0, tuned_on_split=False)
        elif self.background == "words":
            protocol = replace(protocol, background="threshold")
        return replace(
            protocol,
            vocabulary=self.vocabulary.without_background_words(),
            changed=tuple(name for name in self.changed if name not in left_aside),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the protocol as plain JSON values; `words` are those that are no class's name."""
        words = self.vocabulary
        of_classes = {
            name: list(words.words_of(index)) for index, name in enumerate(words.class_names)
        }
        view: dict[str, Any] = dict.fromkeys(field.name for field in fields(View))
        if self.view is not None:
            view = asdict(self.view)
            if self.view.templates is not None:
                view["templates"] = template_names(self.view.templates)
            if self.view.scales is not None:
                view["scales"] = list(self.view.scales)
        return {
            "name": self.name,
            "version": self.version,
            **view,
            "class_words": self.class_words,
            "words": {name: own for name, own in of_classes.items() if own != [name]},
            "background": self.background,
            "background_words": list(words.words_of(BACKGROUND)),
            "threshold": self.threshold,
            "tuned_on_split": self.tuned_on_split,
            "changed": list(self.changed),
            "source": self.source,
        }


@dataclass(frozen=True)
class OracleProtocol:
    """The protocol `oracle`: pseudo-masks that are told their majority class.

    Attributes:
        masks: how they are made.
        background: see `BackgroundRule`.
    """

    masks: PseudomaskConfig
    background: BackgroundRule

    @property
    def rule(self) -> Rule:
        """What the evaluator does with background."""
        return Rule(exclude=self.background == "exclude")

    def as_json(self) -> dict[str, Any]:
        """Return the protocol as plain JSON values."""
        names = ("features", "facet", "clustering", "masks", "image_size", "grid", "seed")
        return {
            "name": "oracle",
            "version": 1,
            **{name: getattr(self.masks, name) for name in names},
            "background": self.background,
        }


def segmentation_protocol(config: AskConfig, benchmark: Benchmark) -> SegmentationProtocol:
    """Resolve the protocol that `config` names, for a benchmark.

    Raises:
        ConfigError: no such protocol or set of templates, a template that cannot hold a name, a
            threshold where no background is predicted, or a file of class words that does not fit
            the benchmark.
    """
    preset = load_preset(config.protocol)
    background = _background(config, benchmark, preset)
    values = preset.values(benchmark.name, with_background=background in _THRESHOLDED)
    if background not in _THRESHOLDED:
        for name in ("threshold", "sweep_threshold"):
            if getattr(config, name, None):  # only `sseg eval` sweeps
                raise without_meaning(name, background)
    asked = {
        "short_side": config.image_size,
        "window": config.window,
        "stride": config.stride,
        "templates": config.templates,
        "logit_scale": config.logit_scale,
        "refine": config.refine,
        "blend": config.blend,
        "scales": config.scales,
        "flip": config.flip,
        "threshold": config.threshold,
        "background_words": config.background_words,
    }
    changed = [name for name, value in asked.items() if value not in (None, values.get(name))]
    values |= {name: value for name, value in asked.items() if value is not None}
    if background != preset.background and background in _THRESHOLDED:
        changed.append("background")
    words, origin = _class_words(config, benchmark, preset)
    if origin not in {"benchmark", "protocol"}:
        changed.append("class_words")
    return SegmentationProtocol(
        name=preset.name,
        version=preset.version,
        source=preset.source,
        view=_view(values),
        vocabulary=Vocabulary.of(
            benchmark.class_names,
            words.words,
            words.background or _background_words(values, benchmark)
            if background == "words"
            else (),
            with_background=background in _THRESHOLDED,
        ),
        class_words=origin,
        background=background,
        threshold=values["threshold"] if background in _THRESHOLDED else 0.0,
        changed=tuple(changed),
    )


def without_meaning(option: str, background: BackgroundRule) -> ConfigError:
    """Return the error of an option of thresholds where there is none."""
    return ConfigError(
        f"{option} has no meaning where background is {background!r}.",
        "Leave it out, or choose a benchmark and a rule that predict background by a threshold.",
    )


def oracle_protocol(
    config: EvalConfig, benchmark: Benchmark, masks: PseudomaskConfig
) -> OracleProtocol:
    """Resolve the oracle's: background is a class, unless it is excluded."""
    background: BackgroundRule = "class"
    if not benchmark.has_background:
        background = "none"
    elif config.background == "exclude":
        background = "exclude"
    return OracleProtocol(masks, background)


def template_names(templates: Sequence[str]) -> list[str]:
    """Return the name of the set that these templates are, or the templates themselves."""
    for name, texts in TEMPLATE_SETS.items():
        if name != "identity" and tuple(templates) == texts:
            return [name]
    return list(templates)


def _background(config: AskConfig, benchmark: Benchmark, preset: Preset) -> BackgroundRule:
    if not benchmark.has_background:
        if config.background in _THRESHOLDED:
            raise ConfigError(
                f"{benchmark.name} has no background to be predicted.", "Leave background out."
            )
        return "none"
    return config.background or preset.background


def _view(values: Mapping[str, Any]) -> View:
    templates = values.get("templates")
    return View(
        short_side=values.get("short_side"),
        window=values.get("window"),
        stride=values.get("stride"),
        templates=None if templates is None else template_texts(templates),
        articles=values.get("articles", True),
        logit_scale=values.get("logit_scale"),
        min_share=values.get("min_share", 0.0),
        refine=values.get("refine", "none"),
        blend=values.get("blend", "mean"),
        scales=values.get("scales"),
        flip=values.get("flip"),
    )


def _class_words(config: AskConfig, benchmark: Benchmark, preset: Preset) -> tuple[ClassWords, str]:
    if config.class_words is not None:
        return read_class_words(config.class_words, benchmark), config.class_words
    if own := preset.words.get(benchmark.name):
        return ClassWords(own), "protocol"
    return ClassWords({}), "benchmark"


def _background_words(values: Mapping[str, Any], benchmark: Benchmark) -> Sequence[str]:
    words: Sequence[str] | None = values.get("background_words")
    if words is None:
        words = load_preset("sclip").values(benchmark.name, with_background=True)[
            "background_words"
        ]
        words = [word for word in words if word not in benchmark.class_names]
    return words
