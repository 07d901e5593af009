"""What a run learns from, by reference and weight, and each process's share of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, inf
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import MasksConfig, PseudomaskConfig, RunConfig, build_config
from sseg_core.data.order import ShardSet
from sseg_core.data.urls import absolute, are_shards, check_url, expand_shards, is_url
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.pseudomask.clustering import resolve


@dataclass(frozen=True)
class TrainInputs:
    """The data of a run.

    Attributes:
        sets: the shards of each data set, with its weight.
        parents: the artifacts they come from.
        references: how the user would name the data sets.
        images: usable images of all sets together; None where only shards are known.
        num_segments: K: the segment ids of the masks are below it.
        masks: the configuration with all references resolved.
    """

    sets: tuple[ShardSet, ...]
    parents: tuple[Artifact, ...]
    references: tuple[str, ...]
    images: int | None
    num_segments: int
    masks: MasksConfig


@dataclass(frozen=True)
class Share:
    """What one process does of a batch: `micro_batches` of `micro_batch_size` images."""

    micro_batch_size: int
    micro_batches: int


def find_inputs(config: MasksConfig, store: ArtifactStore) -> TrainInputs:
    """Resolve what the masks section of a configuration names.

    Raises:
        ArtifactError: no such masks or pairs, or masks whose pairs are gone or changed.
        ConfigError: weights that are no numbers, or a pattern of shards that cannot be used.
    """
    if config.source == "online":
        return _online(config, store)
    if config.pairs is not None:
        raise ConfigError(
            "masks.pairs is for online masks; stored masks know their pairs.",
            "Leave it out, or set masks.source=online.",
        )
    found = [(store.find(name, "masks"), weight) for name, weight in _weighted(config.stored)]
    sets, parents, images = [], [], []
    for masks, weight in found:
        pairs, locations = _pairs_of(masks, store)
        count = int(masks.manifest.stats["images"])
        shards = tuple((locations[name], place) for name, place in _mask_shards(masks).items())
        sets.append(ShardSet(shards, weight=weight or count, name=masks.reference))
        parents += [artifact for artifact in (masks, *pairs) if artifact not in parents]
        images.append(count)
    manifests = [masks.manifest for masks, _ in found]
    resolved = {
        "stored": _listed([(masks.reference, weight) for masks, weight in found]),
        "generator": _generator_of(manifests[0].config),
    }
    return TrainInputs(
        sets=tuple(sets),
        parents=tuple(parents),
        references=tuple(masks.reference for masks, _ in found),
        images=sum(images),
        num_segments=max(int(manifest.config["masks"]) for manifest in manifests),
        masks=config.model_copy(update=resolved),
    )


def _online(config: MasksConfig, store: ArtifactStore) -> TrainInputs:
    if config.stored is not None:
        raise ConfigError(
            "masks.stored names masks that online masks would not use.",
            "Set masks.pairs instead, or masks.source=stored.",
        )
    sets, parents, named = [], [], []
    images: int | None = 0
    for name, weight in _weighted(config.pairs):
        if name is not None and are_shards(name):
            reference, count = absolute(name), None
            shards = expand_shards(reference)
            if is_url(name):
                check_url(name)
        else:
            pairs = store.find(name, "pairs")
            shards = {path.name: str(path) for path in pairs.files(".tar")}
            reference, count = pairs.reference, int(pairs.manifest.stats["images"])
            parents.append(pairs)
        images = None if images is None or count is None else images + count
        locations = tuple((location, None) for location in shards.values())
        sets.append(ShardSet(locations, weight=weight or count or len(shards), name=reference))
        named.append((reference, weight))
    generator = resolve(config.generator)
    return TrainInputs(
        sets=tuple(sets),
        parents=tuple(parents),
        references=tuple(reference for reference, _ in named),
        images=images,
        num_segments=generator.masks,
        masks=config.model_copy(update={"pairs": _listed(named), "generator": generator}),
    )


def _pairs_of(masks: Artifact, store: ArtifactStore) -> tuple[list[Artifact], dict[str, str]]:
    """Return the pairs artifact of masks, if they have one, and its shards by name."""
    pattern = masks.manifest.config.get("pairs")
    if pattern is not None and are_shards(pattern):
        if is_url(pattern):
            check_url(pattern)
        return [], expand_shards(pattern)
    pairs = store.parent(masks, "pairs")
    return [pairs], {path.name: str(path) for path in pairs.files(".tar")}


def _mask_shards(masks: Artifact) -> dict[str, str]:
    """Return where each shard of masks lies, by name, in order."""
    urls: dict[str, dict[str, Any]] = masks.manifest.stats.get("urls", {})
    if urls:
        return {name: str(urls[name]["url"]) for name in sorted(urls)}
    return {path.name: str(path) for path in sorted(masks.files(".tar"))}


def _generator_of(values: dict[str, Any]) -> PseudomaskConfig:
    known = {name: value for name, value in values.items() if name in PseudomaskConfig.model_fields}
    return build_config(PseudomaskConfig, known)


def _weighted(text: str | None) -> list[tuple[str | None, float | None]]:
    """Parse `a=1,b=3`, `a,b` or `a`: names with a weight each, or all without."""
    if text is None:
        return [(None, None)]
    # Commas inside the braces of a pattern do not part data sets.
    parts, depth = [""], 0
    for char in text:
        depth += (char == "{") - (char == "}")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    named: list[tuple[str | None, float | None]] = []
    for part in parts:
        name, separator, number = part.rpartition("=") if _ends_in_weight(part) else (part, "", "")
        named.append((name.strip(), float(number) if separator else None))
    names = [name for name, _ in named]
    if not all(names) or len(set(names)) < len(names):
        raise ConfigError(
            f"{text!r} names a data set twice, or none.", "Write NAME, or NAME=1,OTHER=3."
        )
    weights = [weight for _, weight in named]
    if any(weight is not None and not 0 < weight < inf for weight in weights):
        raise ConfigError(f"The weights in {text!r} must be above 0.", "Write NAME=1,OTHER=3.")
    if None in weights and any(weights):
        raise ConfigError(
            f"Only some data sets of {text!r} have a weight.",
            "Give each one a weight, or none: then each counts by its number of images.",
        )
    return named


def _ends_in_weight(part: str) -> bool:
    """Tell whether what follows the last `=` is a number: a URL may hold `=` too."""
    try:
        float(part.rpartition("=")[2])
    except ValueError:
        if "=" in part and not is_url(part):
            raise ConfigError(
                f"{part!r} gives no weight after its =.", "Write NAME=1,OTHER=3."
            ) from None
        return False
    return "=" in part


def _listed(named: list[tuple[str, float | None]]) -> str:
    return ",".join(name if weight is None else f"{name}={weight:g}" for name, weight in named)


def check_length(inputs: TrainInputs, batch_size: int, steps: int | None) -> None:
    """Raise ArtifactError where a run has fewer images than a batch, or no known length."""
    if inputs.images is None:
        if steps is None:
            raise ArtifactError(
                "How many images the shards hold is not known, so epochs have no length.",
                "Set the training length with --set steps=N.",
            )
    elif inputs.images < batch_size:
        raise ArtifactError(
            f"{', '.join(inputs.references)} has {inputs.images} images, fewer than a batch of "
            f"{batch_size}.",
            f"Use --set batch_size={max(2, inputs.images // 2)}, or more images.",
        )


def share_of_batch(config: RunConfig, processes: int) -> Share:
    """Return how `processes` share a batch.

    Raises:
        ConfigError: the batch does not divide among them, or not into micro-batches.
    """
    own, rest = divmod(config.batch_size, processes)
    if rest or not own:
        raise ConfigError(
            f"A batch of {config.batch_size} does not divide among {processes} processes.",
            f"Use --set batch_size={max(1, own) * processes}, or another number of processes.",
        )
    largest = min(own, config.micro_batch_size or own)
    size = next(size for size in range(largest, 0, -1) if own % size == 0)
    if 2 * size < largest:
        raise ConfigError(
            f"The {own} images of a process divide into micro-batches of {size}, far below "
            f"micro_batch_size={largest}.",
            f"Use --set batch_size={ceil(own / largest) * largest * processes}.",
        )
    return Share(micro_batch_size=size, micro_batches=own // size)
