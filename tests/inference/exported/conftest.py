"""Small networks as `sseg export` writes them, and an environment without torch to run them in."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import venv
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from packaging.requirements import Requirement
from torch import Tensor, nn

from sseg_core.config import CropConfig, StudentConfig, UperNetConfig
from sseg_core.inference.class_network import ClassNetwork
from sseg_core.inference.combine import class_probabilities
from sseg_core.inference.segmenter import Segmenter
from sseg_core.inference.word_network import WordNetwork
from sseg_core.structures import ClassLogits, MaskOutput
from sseg_core.text.tokenizer import VOCAB_SIZE, Tokenizer, installed_table

STRIDE = 4
CONTEXT = 16
SCALE = 9.0
NAMES = ("cat", "dog", "sky", "grass", "road")

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class _Convolution(nn.Module):
    """Cells of `STRIDE` pixels, as many as it takes to cover an image of any size."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, STRIDE, STRIDE)
        nn.init.normal_(self.conv.weight, std=0.9)

    def forward(self, images: Tensor) -> Tensor:
        cells: Tensor = self.conv(F.pad(images - 0.5, (0, STRIDE - 1, 0, STRIDE - 1)))
        return cells


class SmallWordModel(nn.Module):
    """Masks of local colours, whose features follow all of the image; texts as bags of tokens."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.masks = _Convolution(6)
        self.texts = nn.Embedding(VOCAB_SIZE, 12)
        self.register_buffer("own", torch.randn(6, 12))  # of a mask, whatever the image shows

    def encode_images(self, images: Tensor) -> MaskOutput:
        logits = self.masks(images)
        shares = logits.sigmoid()
        of_masks = (
            torch.einsum("bqyx,bkyx->bqk", shares, shares) / shares.sum(dim=(2, 3))[..., None]
        )
        features = torch.cat([of_masks, of_masks.roll(1, 2) ** 2], dim=2)
        return MaskOutput(logits, features, (), STRIDE)

    def project_masks(self, features: Tensor) -> Tensor:
        return F.normalize(features + self.own, dim=-1)

    def encode_texts(self, token_ids: Tensor) -> Tensor:
        counts = (token_ids != 0).float()[..., None]
        return F.normalize((self.texts(token_ids) * counts).sum(dim=1), dim=-1)

    def similarity_scale(self) -> Tensor:
        return torch.tensor(SCALE)

    forward = encode_texts


class _ImageGraph(nn.Module):
    def __init__(self, model: SmallWordModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, texts: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        masks = self.model.encode_images(images)
        embeddings = self.model.project_masks(masks.mask_features)
        return masks.mask_logits, class_probabilities(embeddings, texts, scale)


class SmallStudent(nn.Module):
    """Logits of local colours."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(channels)
        self.scores = _Convolution(channels)

    def forward(self, images: Tensor) -> ClassLogits:
        return ClassLogits(self.scores(images), None, STRIDE)


class _ClassGraph(nn.Module):
    def __init__(self, student: SmallStudent) -> None:
        super().__init__()
        self.student = student

    def forward(self, images: Tensor) -> Any:
        return self.student(images).logits


@dataclass(frozen=True)
class Exported:
    """The folder of an export, and the same network in torch."""

    folder: Path
    network: Segmenter


def _export(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, tuple[Tensor, Mapping[int, str]]],
    outputs: Sequence[str],
) -> None:
    """Write a graph; inputs by name: an example, and names of dimensions of any size."""
    sizes = tuple(
        dict.fromkeys(dynamic, torch.export.Dim.DYNAMIC) for _, dynamic in inputs.values()
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own
        torch.onnx.export(
            module.eval(),
            tuple(example for example, _ in inputs.values()),
            path,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamo=True,
            external_data=False,
            verbose=False,
            dynamic_shapes=sizes,
        )


def _seal(folder: Path) -> None:
    files = {
        path.name: {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(folder.iterdir())
        if path.name != "manifest.json"
    }
    manifest = {
        "schema": 1, "kind": "export", "name": "small", "version": 3, "created": "2026-01-01",
        "sseg_version": "0.1.0", "config": {}, "parents": [], "files": files, "stats": {},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


@pytest.fixture(scope="session")
def seal() -> Callable[[Path], None]:
    """Writes the manifest of the files that lie in a folder."""
    return _seal


def _describe(folder: Path, **values: object) -> None:
    """Write the last files of an export."""
    shared = {
        "format": 1, "precision": "fp32", "sseg_version": "0.1.0", "image_size": 40,
        "stride": STRIDE, "notes": [],
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(shared | values), encoding="utf-8")
    _seal(folder)


_IMAGES = (torch.rand(2, 3, 21, 34), {0: "B", 2: "H", 3: "W"})


@pytest.fixture(scope="session")
def words(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A network that takes any words."""
    folder = tmp_path_factory.mktemp("words")
    model = SmallWordModel().eval()
    texts = (F.normalize(torch.rand(3, 12), dim=1), {0: "C"})
    _export(
        _ImageGraph(model),
        folder / "image.onnx",
        {"images": _IMAGES, "text_features": texts, "logit_scale": (torch.tensor(2.0), {})},
        ["mask_logits", "class_probabilities"],
    )
    ids = (torch.randint(0, 9, (3, 8)), {0: "N", 1: "L"})
    _export(model, folder / "text.onnx", {"token_ids": ids}, ["text_features"])
    shutil.copy(installed_table(), folder / "merges.txt.gz")
    _describe(
        folder, kind="words", name="small:v3", template="a {}", logit_scale=SCALE,
        context_length=CONTEXT, embed_dim=12,
    )  # fmt: skip
    network: Any = WordNetwork(model, Tokenizer(CONTEXT), 40, "a {}")  # type: ignore[arg-type]
    return Exported(folder, Segmenter(network))


@pytest.fixture(scope="session")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Exported]:
    """Returns a student of `NAMES`, with or without background."""
    made: dict[bool, Exported] = {}

    def make(background: bool) -> Exported:
        if background in made:
            return made[background]
        folder = tmp_path_factory.mktemp("classes")
        student = SmallStudent(len(NAMES) + background).eval()
        _export(_ClassGraph(student), folder / "image.onnx", {"images": _IMAGES}, ["logits"])
        _describe(
            folder, kind="classes", name="small-plus:v1", class_names=NAMES,
            has_background=background, teacher="small:v3",
        )  # fmt: skip
        config = StudentConfig(
            model=UperNetConfig(class_names=NAMES, has_background=background),
            loader=CropConfig(short_side=40),
        )
        network = ClassNetwork(student, config, "small:v3", "small-plus:v1")
        made[background] = Exported(folder, Segmenter(network))
        return made[background]

    return make


@pytest.fixture(scope="session")
def picture() -> Callable[..., np.ndarray]:
    """Returns [H, W, 3] uint8 in coarse random colours."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray:
        small = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), np.uint8)
        return small[np.arange(height)[:, None] * 7 // height, np.arange(width) * 9 // width]

    return make


@pytest.fixture(scope="session")
def run_bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Runs code where sseg and some distributions alone are installed; returns what it prints.

    What is named comes with what it needs itself, as links to the files that are installed here.
    What sseg needs does not come with it.
    """
    made: dict[tuple[str, ...], Path] = {}

    def python_with(names: tuple[str, ...]) -> Path:
        if names not in made:
            home = tmp_path_factory.mktemp("bare")
            venv.EnvBuilder(symlinks=True).create(home)
            [packages] = home.glob("lib/python*/site-packages")
            for distribution in (*_with_needs(names), metadata.distribution("sseg")):
                _link(distribution, packages)
            made[names] = home / "bin" / "python"
        return made[names]

    def run(packages: Sequence[str], code: str, *arguments: object) -> str:
        command = [python_with(tuple(packages)), "-c", code, *map(str, arguments)]
        own = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
        result = subprocess.run(command, capture_output=True, text=True, env=own, check=False)
        assert (result.returncode, result.stderr) == (0, ""), result.stderr
        return result.stdout

    return run


def _with_needs(names: Sequence[str]) -> Iterator[metadata.Distribution]:
    """Yield distributions and all that they need, without extras."""
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        if name.lower() in seen:
            continue
        seen.add(name.lower())
        distribution = metadata.distribution(name)
        yield distribution
        needs = map(Requirement, distribution.requires or ())
        waiting += [
            need.name for need in needs if not need.marker or need.marker.evaluate({"extra": ""})
        ]


def _link(distribution: metadata.Distribution, packages: Path) -> None:
    """Let the files of a distribution appear among the packages of another environment."""
    for file in distribution.files or ():
        if ".." in file.parts or file.suffix == ".pyc":  # scripts, and what Python makes itself
            continue
        link = packages / file
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.symlink(file.locate(), link)
