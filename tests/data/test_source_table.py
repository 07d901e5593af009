"""The table of sources: what stands in it is well formed, and what the programs use."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

import open_clip
import pytest
import timm
from timm.models import get_pretrained_cfg

from sseg_core.data.sources import BENCHMARKS, PAIRS, WEIGHTS, RemoteFile, WeightSource
from sseg_core.evaluation.benchmarks.registry import BENCHMARKS as SCORED
from sseg_core.pseudomask.features import VITS
from sseg_core.pseudomask.groupvit import REPOSITORIES

FILES = [
    *(part.file for source in BENCHMARKS for part in source.parts),
    *(source.annotations for source in PAIRS if source.annotations),
]
SOURCES = [*PAIRS, *BENCHMARKS, *WEIGHTS]


def test_names_are_clear() -> None:
    """Each is of one source, plain, and no part of the grammar of `sseg download`."""
    names = [source.name for source in SOURCES]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_-]+", name) for name in names)
    assert not set(names) & {"toyworld", "pairs", "urls", "hf", "parts"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_everyone_can_read_the_terms(source: object) -> None:
    """A licence, and a page with the terms."""
    assert source.licence  # type: ignore[attr-defined]
    assert source.contents  # type: ignore[attr-defined]
    parts = urlsplit(source.terms)  # type: ignore[attr-defined]
    assert parts.scheme in {"http", "https"}
    assert parts.hostname


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_files_are_described_well(file: RemoteFile) -> None:
    """By http or https, with digests of the right length; mirrors have the same name."""
    for url in (file.url, *file.mirrors):
        parts = urlsplit(url)
        assert parts.scheme in {"http", "https"}
        assert parts.hostname
        assert parts.path.endswith(f"/{file.name}")
    assert re.fullmatch(r"[A-Za-z0-9._-]+", file.name)
    for digest, length in ((file.sha256, 64), (file.sha1, 40), (file.md5, 32)):
        assert digest is None or re.fullmatch(f"[0-9a-f]{{{length}}}", digest)
    assert file.bytes is None or file.bytes > 0


def test_benchmarks_are_those_that_are_scored() -> None:
    """All of sseg eval but the toy world and the user's own, each from one source."""
    names = [name for source in BENCHMARKS for name, _ in source.evaluates]
    assert sorted(names) == sorted(set(SCORED) - {"toyworld", "folder:DIR"})
    for source in BENCHMARKS:
        folders = {path.split("/")[0] for part in source.parts for path in part.makes}
        assert folders
        assert all(not path.startswith(("/", "..")) for part in source.parts for path in part.makes)


@pytest.mark.parametrize("source", WEIGHTS, ids=lambda source: source.name)
def test_weights_are_where_the_libraries_look(source: WeightSource) -> None:
    """Repository, size and model are those of timm, open_clip and our features."""
    if ":" in source.model:
        architecture, _, tag = source.model.partition(":")
        config = open_clip.get_pretrained_cfg(architecture, tag)
        assert config["hf_hub"].strip("/") == source.repository
    elif source.model:
        config = get_pretrained_cfg(source.model)
        assert config.hf_hub_id == source.repository
        model = timm.create_model(source.model)
        size = 4 * sum(parameter.numel() for parameter in model.parameters())
        assert source.bytes == pytest.approx(size, rel=0.01)
        assert VITS.get(source.name, source.model) == source.model
    else:
        assert REPOSITORIES[source.name] == source.repository
