"""`sseg eval --model oracle:all` is Table 1 of the paper, as far as it can be made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sseg_core.artifacts import ArtifactStore
from sseg_core.config import EvalConfig, PseudomaskConfig
from sseg_core.errors import ArtifactError, ConfigError
from sseg_core.evaluation import contestants, scores
from sseg_core.evaluation.evaluator import Evaluation
from sseg_core.evaluation.rivals.oracle import Oracle
from sseg_core.evaluation.rivals.table1 import GENERATORS
from sseg_core.pseudomask.features import supervision
from sseg_core.stages import evaluate

TABLE = EvalConfig(model="oracle:all", limit=2)
HERE = ["rgb + k-means", "lab + k-means"]
"""The rows that these tests make; the others cost more and are tested where they are written."""


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path)


@pytest.fixture(autouse=True)
def few_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are never looked for, and the costly rows without weights are left out."""
    rows = tuple(g for g in GENERATORS if g.name in HERE or g.supervision != "none")
    monkeypatch.setattr("sseg_core.stages.evaluate_table.GENERATORS", rows)
    monkeypatch.setattr(
        "sseg_core.evaluation.rivals.table1.weights_at_hand", lambda name: name in {"rgb", "lab"}
    )


def _rows(store: ArtifactStore, config: EvalConfig = TABLE) -> dict[str, dict[str, Any]]:
    stats = evaluate.run(config, store, device="cpu").manifest.stats
    return {row["generator"]: row for row in stats["rows"]}


def test_the_rows_of_the_paper_are_there_with_its_figures() -> None:
    """Table 1's five rows with their supervision, and ours."""
    paper = {
        g.name: (g.supervision, *g.paper_miou.values(), g.paper_milliseconds)
        for g in GENERATORS
        if g.paper_miou
    }
    assert paper == {
        "rgb + spectral": ("none", 49.2, 43.2, 543),
        "rgb + k-means": ("none", 49.5, 43.3, 188),
        "imagenet + k-means": ("label", 68.8, 58.1, 79),
        "groupvit": ("text", 73.7, 54.6, 2),
        "dino + k-means": ("self", 78.8, 66.3, 2),
    }
    ours = {g.name: g.features for g in GENERATORS if not g.paper_miou}
    assert ours == {
        "lab + k-means": "lab",
        "texture": "texture",
        "dinov2 + k-means": "dinov2_vits14",
    }


def test_the_supervision_is_that_of_the_features() -> None:
    """The table and the features agree on what was learned from what."""
    for generator in GENERATORS:
        assert supervision(generator.features) in {generator.supervision, None}, generator


def test_plain_pixels_are_taken_at_an_eighth_of_the_image() -> None:
    """28 x 28 cells of 224 pixels, as in the paper; what else is asked for holds for all rows."""
    base = PseudomaskConfig(masks=5, image_size=448, grid=40, seed=2)
    for generator in GENERATORS:
        config = generator.configured(base)
        assert (config.features, config.clustering) == (generator.features, generator.clustering)
        assert (config.masks, config.image_size, config.seed) == (5, 448, 2)
        assert config.grid == (56 if config.features == "rgb" else 40)
    assert GENERATORS[0].configured(PseudomaskConfig()).grid == 28


def test_each_row_has_what_the_oracle_has_alone(store: ArtifactStore) -> None:
    """The row of lab is the artifact of oracle:lab but for times and memory."""
    rows = _rows(store)
    alone = evaluate.run(
        EvalConfig(model="oracle:lab", limit=2, oracle=PseudomaskConfig(clustering="kmeans")),
        store,
        device="cpu",
    ).manifest.stats
    row = rows["lab + k-means"]
    differ = {"images_per_second", "milliseconds_per_image", "peak_memory_mb"}
    for name in {*alone} - differ - {"benchmark", "split", "limit"}:
        assert row[name] == alone[name], name
    assert row["missing"] is None
    assert row["milliseconds_per_image"] > 0
    assert (row["supervision"], row["masks"], row["paper_miou"]) == ("none", 8, None)
    assert rows["rgb + k-means"]["paper_milliseconds_per_image"] == 188
    assert rows["rgb + k-means"]["paper_miou"] is None  # it is of other photos than these


def test_the_artifact_holds_every_row(store: ArtifactStore) -> None:
    """One artifact; scores.json repeats its stats; a file per row that was made."""
    artifact = evaluate.run(TABLE, store, device="cpu")
    assert artifact.manifest.name == "oracle-all-toyworld"
    assert json.loads(artifact.verified_file("scores.json").read_text()) == artifact.manifest.stats
    assert sorted(artifact.manifest.files) == ["row-1.json", "row-2.json", "scores.json"]


def test_rows_without_weights_say_what_they_lack(store: ArtifactStore) -> None:
    """No hub is asked; each sentence names the features and both ways to their weights."""
    rows = _rows(store)
    assert [name for name, row in rows.items() if row["missing"] is None] == HERE
    for generator in GENERATORS:
        if generator.supervision != "none":
            missing = rows[generator.name]["missing"]
            assert f"--model oracle:{generator.features} " in missing
            assert "--set oracle.weights=FILE" in missing


def test_a_generator_that_cannot_be_built_is_a_row_that_says_why(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged weights or an option it does not take stop one row, not the table."""

    def build(config: PseudomaskConfig, *others: Any) -> Oracle:
        if config.features == "rgb":
            raise ArtifactError("The weights are damaged.", "Fetch them again.")
        return Oracle(config, *others)

    monkeypatch.setattr(contestants, "Oracle", build)
    rows = _rows(store)
    assert rows["rgb + k-means"]["missing"] == "The weights are damaged. Fetch them again."
    assert rows["lab + k-means"]["miou"] > 0


def test_an_interrupted_table_makes_only_the_missing_rows(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first row is kept; the rerun gives the table of an uninterrupted run."""
    made = []
    whole = scores.evaluate

    def counted(*arguments: Any, **options: Any) -> Evaluation:
        made.append(options["task"])
        if made == HERE:
            raise KeyboardInterrupt
        return whole(*arguments, **options)

    monkeypatch.setattr(scores, "evaluate", counted)
    with pytest.raises(KeyboardInterrupt):
        _rows(store)
    assert store.artifacts() == []
    rows = _rows(store)
    assert made == ["rgb + k-means", "lab + k-means", "lab + k-means"]
    again = _rows(store)
    for name in HERE:
        assert rows[name]["miou"] == again[name]["miou"]


@pytest.mark.parametrize(
    "changes",
    [{"features": "lab"}, {"clustering": "cosine"}, {"facet": "key"}, {"weights": "x.pth"}],
)
def test_what_each_row_decides_itself_is_refused(
    store: ArtifactStore, changes: dict[str, str]
) -> None:
    """Weights for all rows, say, cannot be meant."""
    config = TABLE.model_copy(update={"oracle": PseudomaskConfig.model_validate(changes)})
    with pytest.raises(ConfigError, match=rf"oracle\.{next(iter(changes))} is not an option"):
        evaluate.run(config, store)
    with pytest.raises(ConfigError, match="threshold is not an option of oracle:all"):
        evaluate.run(TABLE.model_copy(update={"threshold": 0.5}), store)
    assert store.artifacts() == []
