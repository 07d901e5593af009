"""What a run learns from, by reference."""

from __future__ import annotations

from pathlib import Path

import pytest

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import MasksConfig
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.training.inputs import check_length, find_inputs


def make_pairs(store: ArtifactStore, name: str, images: int, shards: int = 1) -> Artifact:
    with store.draft("pairs", name, {}) as draft:
        for number in range(shards):
            draft.partial(f"{number:06d}.tar").write_bytes(b"p")
            draft.commit(f"{number:06d}.tar")
        return draft.publish({"images": images})


def make_masks(store: ArtifactStore, name: str, images: int, segments: int = 8) -> Artifact:
    pairs = make_pairs(store, name, images)
    config = {"masks": segments, "features": "lab", "pairs": pairs.reference}
    with store.draft("masks", name, config, [pairs]) as draft:
        draft.partial("000000.tar").write_bytes(b"m")
        draft.commit("000000.tar")
        return draft.publish({"images": images})


def test_one_data_set_is_the_newest_masks(tmp_path: Path) -> None:
    """Without a reference; the generator is told as it made them, and pairs are parents too."""
    store = ArtifactStore(tmp_path)
    make_masks(store, "old", 10)
    make_masks(store, "new", 20, segments=5)
    inputs = find_inputs(MasksConfig(), store)
    assert inputs.references == ("new:v1",)
    assert (inputs.images, inputs.num_segments) == (20, 5)
    assert inputs.masks.stored == "new:v1"
    assert (inputs.masks.generator.features, inputs.masks.generator.masks) == ("lab", 5)
    assert [parent.manifest.kind for parent in inputs.parents] == ["masks", "pairs"]
    ((pairs, masks),) = inputs.sets[0].shards
    assert (Path(pairs).parts[-4], Path(masks or "").parts[-4]) == ("pairs", "masks")


def test_several_data_sets_have_weights(tmp_path: Path) -> None:
    """Given ones, or by default the numbers of images; the largest K counts."""
    store = ArtifactStore(tmp_path)
    make_masks(store, "a", 10, segments=4)
    make_masks(store, "b", 30, segments=8)
    mixed = find_inputs(MasksConfig(stored="a=1, b:v1=2.5"), store)
    assert [(s.name, s.weight) for s in mixed.sets] == [("a:v1", 1.0), ("b:v1", 2.5)]
    assert (mixed.images, mixed.num_segments) == (40, 8)
    assert mixed.masks.stored == "a:v1=1,b:v1=2.5"
    again = find_inputs(MasksConfig(stored=mixed.masks.stored), store)
    assert again.sets == mixed.sets
    natural = find_inputs(MasksConfig(stored="a,b"), store)
    assert [s.weight for s in natural.sets] == [10, 30]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a=1,b", "Only some data sets"),
        ("a=0,b=1", "must be above 0"),
        ("a=nan", "must be above 0"),
        ("a=inf", "must be above 0"),
        ("a=much", "no weight after"),
        ("a,,b", "twice, or none"),
        ("a,a", "twice, or none"),
    ],
)
def test_a_mix_that_means_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """One sentence that quotes what was written."""
    store = ArtifactStore(tmp_path)
    make_masks(store, "a", 10)
    make_masks(store, "b", 10)
    with pytest.raises(ConfigError, match=message):
        find_inputs(MasksConfig(stored=text), store)


def test_online_masks_need_pairs_only(tmp_path: Path) -> None:
    """Artifacts or shards by pattern; K and the features are those of the generator."""
    store = ArtifactStore(tmp_path)
    make_pairs(store, "p", 12, shards=3)
    config = MasksConfig(source="online").model_dump()
    config["generator"]["features"] = "texture"
    online = MasksConfig.model_validate(config)
    inputs = find_inputs(online, store)
    assert [masks for _, masks in inputs.sets[0].shards] == [None] * 3
    assert (inputs.images, inputs.num_segments) == (12, 8)
    assert inputs.masks.pairs == "p:v1"
    pattern = online.model_copy(update={"pairs": "data/{00000..00002}.tar=2,p=1"})
    inputs = find_inputs(pattern, store)
    assert inputs.images is None
    assert [len(s.shards) for s in inputs.sets] == [3, 3]
    assert Path(inputs.sets[0].shards[0][0]).is_absolute()
    with pytest.raises(ArtifactError, match="not known") as error:
        check_length(inputs, 4, None)
    assert "--set steps=" in error.value.hint
    check_length(inputs, 4, 10)


def test_stored_and_online_exclude_each_other(tmp_path: Path) -> None:
    """A field of the other source is refused, not passed over in silence."""
    store = ArtifactStore(tmp_path)
    with pytest.raises(ConfigError, match="for online masks"):
        find_inputs(MasksConfig(pairs="p"), store)
    with pytest.raises(ConfigError, match="would not use"):
        find_inputs(MasksConfig(source="online", stored="m"), store)


def test_masks_kept_elsewhere_are_read_from_there(tmp_path: Path) -> None:
    """Masks written to a URL, of pairs given by a pattern, bring both locations along."""
    store = ArtifactStore(tmp_path)
    values = {"masks": 8, "pairs": str(tmp_path / "in" / "{00..01}.tar"), "out": "/else/where"}
    urls = {f"0{i}.tar": {"url": f"/else/where/0{i}.tar", "bytes": 1} for i in range(2)}
    with store.draft("masks", "far", values) as draft:
        draft.publish({"images": 7, "urls": urls})
    inputs = find_inputs(MasksConfig(stored="far"), store)
    assert inputs.sets[0].shards == tuple(
        (str(tmp_path / "in" / f"0{i}.tar"), f"/else/where/0{i}.tar") for i in range(2)
    )
    assert inputs.images == 7


def test_fewer_images_than_a_batch_is_one_sentence(tmp_path: Path) -> None:
    """The hint is a batch size that works."""
    store = ArtifactStore(tmp_path)
    make_masks(store, "toy", 10)
    with pytest.raises(ArtifactError, match="fewer than a batch of 64") as error:
        check_length(find_inputs(MasksConfig(), store), 64, None)
    assert "--set batch_size=5" in error.value.hint
