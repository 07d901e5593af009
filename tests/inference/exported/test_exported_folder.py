"""Folders that are no exports, or no longer what was written, are refused in one sentence."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sseg_core.errors import ArtifactError, ConfigError, SsegError
from sseg_core.inference.exported import load_network
from sseg_core.inference.segmenter import Segmenter

Seal = Callable[[Path], None]


@pytest.fixture
def folder(words: Any, tmp_path: Path) -> Path:
    """A copy of an export, to spoil."""
    copy: Path = shutil.copytree(words.folder, tmp_path / "model")
    return copy


def _describe(folder: Path, **changes: object) -> None:
    """Change values of `model.json`; None takes one out."""
    file = folder / "model.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))


def _refusal(folder: Path, error: type[SsegError] = ArtifactError, device: str = "cpu") -> str:
    with pytest.raises(error) as raised:
        load_network(folder, device)
    assert raised.value.message.count(". ") == 0
    assert raised.value.message.endswith(".")
    assert raised.value.hint
    return raised.value.message


def test_a_folder_without_a_manifest(tmp_path: Path) -> None:
    """Any folder, or none at all."""
    assert "is not an exported model: it holds no manifest.json" in _refusal(tmp_path)
    assert "it holds no manifest.json" in _refusal(tmp_path / "none")


@pytest.mark.parametrize("text", ["{", "\ufffe", '{"kind": "export"'])
def test_a_manifest_that_is_no_json(folder: Path, text: str) -> None:
    (folder / "manifest.json").write_text(text)
    assert _refusal(folder).startswith("manifest.json of")
    with pytest.raises(ArtifactError, match="is not valid JSON"):
        Segmenter.load(str(folder))  # takes it for an export all the same


def test_bytes_that_are_no_text(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
    assert "is not valid JSON" in _refusal(folder)


@pytest.mark.parametrize("manifest", [[], {"kind": "checkpoint"}, {"kind": "pairs"}, 3])
def test_another_artifact(folder: Path, manifest: object) -> None:
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "is not an exported model" in _refusal(folder)


@pytest.mark.parametrize(
    "files",
    [None, [], {"image.onnx": 3}, {"image.onnx": {}}, {"../image.onnx": {"sha256": "0"}},
     {"/dev/zero": {"sha256": "0"}}],
)  # fmt: skip
def test_a_malformed_manifest(folder: Path, files: object) -> None:
    """Paths that lead out of the folder are not even opened."""
    (folder / "manifest.json").write_text(json.dumps({"kind": "export", "files": files}))
    assert "is malformed at 'files" in _refusal(folder)


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx", "merges.txt.gz", "model.json"])
def test_a_file_that_was_changed_or_is_gone(folder: Path, seal: Seal, name: str) -> None:
    """By hash, also where the size stayed; and where the manifest was written without it."""
    data = bytearray((folder / name).read_bytes())
    data[-2] ^= 1
    (folder / name).write_bytes(data)
    assert _refusal(folder) == f"{name} of small:v3 does not match its hash: it was changed."
    (folder / name).unlink()
    assert _refusal(folder) == f"{name} of small:v3 is missing."
    seal(folder)
    assert name in _refusal(folder)


def test_what_people_read_may_be_edited(folder: Path, seal: Seal) -> None:
    (folder / "MODEL_CARD.md").write_text("one")
    seal(folder)
    (folder / "MODEL_CARD.md").write_text("two")
    assert load_network(folder, "cpu").image_size == 40


def test_a_newer_format(folder: Path, seal: Seal) -> None:
    _describe(folder, format=2, kind="videos")
    seal(folder)
    assert "was exported by a newer version" in _refusal(folder)


def test_an_unknown_kind(folder: Path, seal: Seal) -> None:
    """Named without what a terminal would obey."""
    _describe(folder, kind="vi\x1bdeos")
    seal(folder)
    assert "of kind 'vi?deos', which this sseg does not know" in _refusal(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("format", None), ("format", "1"), ("format", True), ("kind", 3), ("image_size", 0),
        ("image_size", 40.5), ("stride", None), ("stride", -4), ("logit_scale", "9"),
        ("logit_scale", float("nan")), ("context_length", []), ("template", 1),
    ],
)  # fmt: skip
def test_a_malformed_description(folder: Path, seal: Seal, name: str, value: object) -> None:
    _describe(folder, **{name: value})
    seal(folder)
    assert _refusal(folder) == f"model.json of small:v3 is malformed at {name!r}."


@pytest.mark.parametrize(
    ("name", "value"),
    [("class_names", []), ("class_names", "cat"), ("class_names", ["cat", 3]),
     ("has_background", 1), ("teacher", 3)],
)  # fmt: skip
def test_a_malformed_description_of_a_student(
    classes: Any, tmp_path: Path, seal: Seal, name: str, value: object
) -> None:
    folder = shutil.copytree(classes(False).folder, tmp_path / "model")
    _describe(folder, **{name: value})
    seal(folder)
    assert f"is malformed at {name!r}" in _refusal(folder)


def test_a_description_that_is_no_object(folder: Path, seal: Seal) -> None:
    (folder / "model.json").write_text("[1]")
    seal(folder)
    assert "is malformed at 'format'" in _refusal(folder)
    (folder / "model.json").write_text("[1")
    seal(folder)
    assert "model.json of" in _refusal(folder)


def test_a_graph_that_onnxruntime_cannot_run(
    folder: Path, seal: Seal, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence, and nothing else on the terminal."""
    (folder / "image.onnx").write_bytes(b"no graph at all")
    seal(folder)
    assert "cannot run image.onnx" in _refusal(folder)
    assert capfd.readouterr() == ("", "")


def test_onnxruntime_that_is_not_installed(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(SsegError, match="needs onnxruntime, which is not installed") as error:
        load_network(words.folder, "cpu")
    assert "pip install onnxruntime" in error.value.hint


@pytest.mark.parametrize("device", ["mps", "tpu", "cuda:x", "cudax", "", "CPU"])
def test_a_device_that_it_does_not_run_on(words: Any, device: str) -> None:
    assert "runs on cpu or cuda, not on" in _refusal(words.folder, ConfigError, device)


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_onnxruntime_does_not_have(
    words: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked for it is refused; `auto` takes the CPU."""
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert "is not available to onnxruntime" in _refusal(words.folder, ConfigError, device)
    assert load_network(words.folder, "auto").image_size == 40
