"""What `sseg pseudomask` will do, resolved before it starts, and how long it will take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import PseudomaskConfig
from sseg_core.data.keys import safe_key
from sseg_core.data.urls import absolute, are_shards, check_url, expand_shards, is_url
from sseg_core.errors import ArtifactError
from sseg_core.manifest import digest_of, sha256_of
from sseg_core.pseudomask.clustering import resolve

PAPER_IMAGES = 26_000_000
"""CC3M, CC12M and the first 11M of RedCaps (S-Seg Sec. 4.1)."""

PAPER_DEVICES = 8

_COST = ("features", "facet", "clustering", "masks", "image_size", "grid", "precision")
"""What decides how long a mask takes and how large it is."""


@dataclass(frozen=True)
class MaskPlan:
    """What a run will do, resolved before it starts.

    Attributes:
        config: with the features chosen and the pairs named.
        identity: the configuration as the manifest holds it; the same command is known by it.
        name: of the artifact.
        parents: the pairs artifact, if they are one.
        shards: path or URL of every shard of pairs, by its name.
        images: as the pairs count them; None where they are only shards.
        finished: what an interrupted run noted of the shards that it finished.
        measured: the newest masks made alike, for their speed and size; None without any.
    """

    config: PseudomaskConfig
    identity: dict[str, Any]
    name: str
    parents: tuple[Artifact, ...]
    shards: dict[str, str]
    images: int | None
    finished: dict[str, dict[str, Any]]
    measured: Artifact | None

    def facts(self, processes: int) -> dict[str, Any]:
        """Return the work to do and its time, and those of the paper's images; None: not known."""
        done = [note["images"] for shard, note in self.finished.items() if shard in self.shards]
        left = None if self.images is None else max(0, self.images - sum(done))
        rate = device = size = None
        if self.measured is not None:
            stats = self.measured.manifest.stats
            rate = stats["images_per_second"] / stats["processes"]
            device, size = stats["device"], stats["bytes_per_mask"]

        def hours(images: int | None, devices: int) -> float | None:
            return images and rate and round(images / rate / devices / 3600, 2)

        return {
            "pairs": self.config.pairs,
            "features": self.config.features,
            "clustering": self.config.clustering,
            "images": self.images,
            "shards": len(self.shards),
            "shards_done": len(done),
            "shards_to_do": len(self.shards) - len(done),
            "images_per_second_per_device": rate,
            "measured_on": device,
            "hours_on_1_device": hours(left, 1),
            **({f"hours_on_{processes}_devices": hours(left, processes)} if processes > 1 else {}),
            "paper_images": PAPER_IMAGES,
            f"paper_hours_on_{PAPER_DEVICES}_devices": hours(PAPER_IMAGES, PAPER_DEVICES),
            "bytes_per_mask": size,
            "paper_gigabytes": size and round(PAPER_IMAGES * size / 1e9, 1),
        }


def plan(
    config: PseudomaskConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
) -> MaskPlan:
    """Resolve what a run will do; nothing is written.

    Raises:
        ArtifactError: no such pairs, or they were changed; no such weights.
        ConfigError: no such features, a pattern of shards that cannot be used, or a URL that needs
            a package which is not installed.
    """
    if config.pairs is not None and are_shards(config.pairs):
        shards = expand_shards(config.pairs)
        parents: tuple[Artifact, ...] = ()
        # Absolute, since an interrupted command is known again by its pattern.
        images, reference = None, absolute(config.pairs)
        default_name = safe_key(Path(reference).parent.name)[:64]
    else:
        pairs = store.find(config.pairs, "pairs")
        shards = {path.name: str(path) for path in pairs.files(".tar")}
        parents = (pairs,)
        images, reference = pairs.manifest.stats.get("images"), pairs.reference
        default_name = pairs.manifest.name
    out = None if config.out is None else absolute(config.out)
    for place in (reference, out or ""):
        if is_url(place):
            check_url(place)
    resolved = resolve(config).model_copy(update={"pairs": reference, "out": out})
    identity = resolved.model_dump(mode="json")
    if config.weights is not None:
        # Shards of an interrupted run must not be taken up after the weights were changed.
        identity["weights_sha256"] = _weights_digest(Path(config.weights))
    return MaskPlan(
        config=resolved,
        identity=identity,
        name=name or default_name,
        parents=parents,
        shards=shards,
        images=images,
        finished=store.finished("masks", name or default_name, identity, parents),
        measured=_made_alike(store, resolved),
    )


def _weights_digest(path: Path) -> str:
    """Return the SHA-256 of a weight file, or of what is in a folder of weights."""
    if path.is_dir():
        return digest_of({file.name: sha256_of(file) for file in path.iterdir() if file.is_file()})
    if not path.exists():
        raise ArtifactError(f"There is no weight file {path}.", "Check the path.")
    return sha256_of(path)


def _made_alike(store: ArtifactStore, config: PseudomaskConfig) -> Artifact | None:
    """Return the newest masks that cost as much as these will, if their speed was measured."""
    for masks in reversed(store.artifacts("masks")):
        stats, made_with = masks.manifest.stats, masks.manifest.config
        alike = all(made_with.get(name) == getattr(config, name) for name in _COST)
        if alike and stats.get("images_per_second") and "bytes_per_mask" in stats:
            return masks
    return None
