"""The folder of an exported model: graphs, tokenizer, description, comparison and model card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sseg_core.artifacts import Artifact, Draft
from sseg_core.config import StudentConfig, TrainConfig, build_checkpoint_config
from sseg_core.draft import program_version
from sseg_core.errors import ConfigError
from sseg_core.export.graphs import ImageGraph, write_class_graph, write_word_graphs
from sseg_core.export.parity import Floats, Parity, compare_classes, compare_words
from sseg_core.export.precision import Precision, convert
from sseg_core.inference.class_network import ClassNetwork
from sseg_core.inference.exported import FORMAT
from sseg_core.inference.onnx_session import OnnxSession
from sseg_core.inference.trained import load_trained
from sseg_core.inference.word_network import WordNetwork
from sseg_core.models.student import Student
from sseg_core.page import render_page
from sseg_core.text.templates import TEMPLATE_SETS
from sseg_core.text.tokenizer import Tokenizer, installed_table
from sseg_core.tracking import Progress

_WORDS = 171


@dataclass(frozen=True)
class Exported:
    """What was written so far.

    Attributes:
        description: what `model.json` holds.
        parity: of the graphs with the network.
    """

    description: Mapping[str, Any]
    parity: Parity


def check_exportable(checkpoint: Artifact) -> None:
    """Raise ConfigError where a checkpoint has no graph of its own."""
    config = build_checkpoint_config(checkpoint.manifest.config)
    if isinstance(config, TrainConfig) and config.model.architecture == "pseudomask_vit":
        raise ConfigError(
            f"{checkpoint.reference} pools its features in pseudo-masks, which are made by "
            "clustering each photo: that is no graph.",
            "Export a checkpoint of S-Seg (architecture sseg), or its student.",
        )


def write_model(
    checkpoint: Artifact,
    draft: Draft,
    precision: Precision,
    notes: tuple[str, ...],
    progress: Progress,
) -> Exported:
    """Write graphs, tokenizer and `model.json` of a checkpoint, and compare graphs with network.

    Args:
        checkpoint: S-Seg or a student.
        draft: of the export.
        precision: of the graphs.
        notes: what a user of the model should know.
        progress: is told of the steps.

    Raises:
        ConfigError: the checkpoint has no graph, see `check_exportable`.
        SsegError: graph and network differ by more than the precision allows.
        ArtifactError: the checkpoint was changed.
    """
    check_exportable(checkpoint)
    network = load_trained(checkpoint, "cpu")
    description: dict[str, Any] = {
        "format": FORMAT,
        "precision": precision,
        "name": checkpoint.reference,
        "sseg_version": program_version(),
        "image_size": network.image_size,
        "notes": list(notes),
    }
    progress.start("export", 3, "steps")
    if isinstance(network, ClassNetwork):
        config = build_checkpoint_config(checkpoint.manifest.config)
        assert isinstance(config, StudentConfig)
        description |= {
            "kind": "classes",
            "class_names": list(network.class_names),
            "has_background": network.tells_background,
            "teacher": network.known.teacher,
        }
        student = network.student
        assert isinstance(student, Student)
        description["stride"] = student.stride
        write_class_graph(student, draft.partial("image.onnx"))
        progress.advance()
        _finish(draft, precision, "image.onnx")
        progress.advance()
        parity = _class_parity(student, draft, precision)
    else:
        description |= {"kind": "words", **_of_words(network)}
        model = network.model
        write_word_graphs(model, draft.partial("image.onnx"), draft.partial("text.onnx"))
        progress.advance()
        _finish(draft, precision, "image.onnx", "text.onnx")
        progress.advance()
        shutil.copyfile(installed_table(), draft.partial("merges.txt.gz"))
        draft.commit("merges.txt.gz")
        _write_text(draft, "templates.json", json.dumps(TEMPLATE_SETS, indent=1))
        parity = _word_parity(network, draft, precision)
    progress.advance()
    parity.check()
    _write_text(draft, "model.json", json.dumps(description, indent=1))
    return Exported(description, parity)


def write_papers(draft: Draft, exported: Exported, scores: Mapping[str, Any] | None) -> None:
    """Write `parity.json` and the model card.

    Args:
        draft: of the export.
        exported: what `write_model` returned.
        scores: `torch` and `exported` mIoU in percent on so many `scenes`; None without.
    """
    values = {**exported.parity.as_json(), "toyworld": scores}
    _write_text(draft, "parity.json", json.dumps(values, indent=1))
    description = exported.description
    cases = exported.parity.cases
    card = render_page(
        "export/model_card.md.j2",
        model=description,
        example=description.get("class_names", ["tiger", "minion"])[:2],
        cases=cases,
        largest=max(case.probability for case in cases),
        labels=min(case.same_labels for case in cases),
        scores=scores,
    )
    _write_text(draft, "MODEL_CARD.md", card.strip() + "\n")


def _of_words(network: WordNetwork) -> dict[str, Any]:
    model = network.model
    with torch.inference_mode():
        scale = float(model.similarity_scale())
    return {
        "template": network.template,
        "logit_scale": scale,
        "context_length": model.config.text.context_length,
        "embed_dim": model.config.embed_dim,
        "stride": model.stride,
    }


def _word_parity(network: WordNetwork, draft: Draft, precision: Precision) -> Parity:
    model = network.model
    words = Tokenizer(model.config.text.context_length)(
        [f"word {number} of many" for number in range(_WORDS)]
    )
    [found] = OnnxSession(draft.path / "text.onnx", "cpu")({"token_ids": words}, ["text_features"])
    with torch.inference_mode():
        features: Floats = model.encode_texts(torch.from_numpy(words)).numpy()
        scale = model.similarity_scale().clone()
    session = OnnxSession(draft.path / "image.onnx", "cpu")
    own = ImageGraph(model)

    def graph(images: Floats, texts: Floats) -> tuple[Floats, Floats]:
        inputs = {"images": images, "text_features": texts, "logit_scale": scale.numpy()}
        logits, classes = session(inputs, ["mask_logits", "class_probabilities"])
        return logits, classes

    cases = compare_words(lambda images, texts: own(images, texts, scale), graph, features)
    return Parity(precision, float(np.abs(found - features).max()), cases)


def _class_parity(student: Student, draft: Draft, precision: Precision) -> Parity:
    session = OnnxSession(draft.path / "image.onnx", "cpu")

    def graph(images: Floats) -> Floats:
        [logits] = session({"images": images}, ["logits"])
        return logits

    return Parity(precision, None, compare_classes(lambda x: student(x).logits, graph))


def _finish(draft: Draft, precision: Precision, *names: str) -> None:
    for name in names:
        convert(Path(draft.partial(name)), precision)
        draft.commit(name)


def _write_text(draft: Draft, name: str, text: str) -> None:
    draft.partial(name).write_text(text, encoding="utf-8")
    draft.commit(name)
