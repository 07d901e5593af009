"""Parts of a source, made apart and put together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sseg_core.artifacts import Artifact, ArtifactStore
from sseg_core.config import DownloadConfig, ToyWorldConfig, build_config
from sseg_core.data.shards import read_shard
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.stages import download

TOY = DownloadConfig(
    source="toyworld", shard_size=3, toyworld=ToyWorldConfig(scenes=20, image_size=32, seed=3)
)
MERGE = DownloadConfig(source="parts:toyworld")


def _part(number: int, count: int, store: ArtifactStore, **changes: Any) -> Artifact:
    config = TOY.model_copy(update={"part": f"{number}/{count}", **changes})
    return download.run(config, store)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "store")


def test_parts_make_the_whole(store: ArtifactStore, tmp_path: Path) -> None:
    """The same shards, counts and fingerprint as one run; the parts are its parents."""
    parts = [_part(number, 3, store) for number in (2, 1, 3)]
    names = ["toyworld-2of3", "toyworld-1of3", "toyworld-3of3"]
    assert [part.manifest.name for part in parts] == names
    assert [path.name for path in parts[0].files(".tar")] == ["000001.tar", "000004.tar"]
    whole = download.run(MERGE, store)
    alone = download.run(TOY, ArtifactStore(tmp_path / "alone"))
    assert whole.reference == "toyworld:v1"
    assert whole.manifest.files == alone.manifest.files
    assert whole.manifest.stats == alone.manifest.stats
    assert {parent.name for parent in whole.manifest.parents} == set(names)
    keys = [sample.key for path in whole.files(".tar") for sample in read_shard(path)]
    assert keys == [f"toy-{i:06d}" for i in range(20)]
    assert alone.manifest.stats["fingerprint"] != parts[0].manifest.stats["fingerprint"]


def test_parts_can_be_named(store: ArtifactStore) -> None:
    """With references, from this store or others."""
    parts = [_part(number, 2, store) for number in (1, 2)]
    source = f"parts:{parts[1].path},toyworld-1of2:v1"
    assert download.run(DownloadConfig(source=source), store).reference == "toyworld:v1"


def test_a_missing_part_is_named(store: ArtifactStore) -> None:
    """With the option that makes it."""
    with pytest.raises(ArtifactError, match="There are no parts of 'toyworld'"):
        download.run(MERGE, store)
    _part(1, 3, store)
    with pytest.raises(ArtifactError, match="Of 3 parts, 2, 3 are missing") as caught:
        download.run(MERGE, store)
    assert "--part 2/3" in caught.value.hint
    _part(3, 3, store)
    with pytest.raises(ArtifactError, match="Of 3 parts, 2 is missing"):
        download.run(MERGE, store)


def test_parts_of_different_commands_do_not_go_together(store: ArtifactStore) -> None:
    """Another quality is another set of images; another least success is not."""
    _part(1, 2, store)
    _part(2, 2, store, jpeg_quality=50)
    with pytest.raises(ArtifactError, match="are parts of different sources"):
        download.run(MERGE, store)
    _part(2, 2, store, min_success=0.9)
    assert download.run(MERGE, store).manifest.stats["images"] == 20
    with pytest.raises(ArtifactError, match="are both part 1"):
        download.run(DownloadConfig(source="parts:toyworld-1of2,toyworld-1of2:v1"), store)


def test_a_changed_shard_is_found(store: ArtifactStore) -> None:
    """Before it becomes part of something; nothing is left behind, and a mended one is taken."""
    parts = [_part(number, 2, store) for number in (1, 2)]
    shard = parts[1].files(".tar")[0]
    original = shard.read_bytes()
    shard.unlink()
    shard.write_bytes(original[:700] + b"!" + original[701:])
    with pytest.raises(ArtifactError, match=f"{shard.name} was changed"):
        download.run(MERGE, store)
    shard.write_bytes(original)
    whole = download.run(MERGE, store)
    assert (whole.path / shard.name).read_bytes() == original


def test_parts_survive_without_their_parents(store: ArtifactStore) -> None:
    """The whole is complete when the parts are removed."""
    parts = [_part(number, 2, store) for number in (1, 2)]
    whole = download.run(MERGE, store)
    for part in parts:
        shutil.rmtree(part.path)
    assert sum(1 for path in whole.files(".tar") for _ in read_shard(path)) == 20
    notes = json.loads((whole.path / "shards.json").read_text())
    assert [note["images"] for note in notes.values()] == [3] * 6 + [2]


@pytest.mark.parametrize("part", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3"])
def test_a_part_is_one_of_n(part: str) -> None:
    """Anything else is refused before the work."""
    with pytest.raises(ConfigError):
        build_config(DownloadConfig, {"source": "toyworld", "part": part})


def test_only_urls_can_be_asked_for_again(store: ArtifactStore) -> None:
    """Other sources go on by themselves."""
    with pytest.raises(ConfigError, match="toyworld has no URLs"):
        download.run(TOY, store, retry_failed=True)
