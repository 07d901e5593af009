"""A stranger's model from a Python file: `FILE.py:FUNCTION`.

The file defines a function without arguments that returns another, `segment(images, class_names)`:

    def build():
        model = ...
        def segment(images, class_names):
            return [model(image, class_names) for image in images]
        return segment

`images` are [H, W, 3] uint8 RGB arrays, of any sizes; `class_names` the words to look for. Each
answer is an [H, W] array of whole numbers: the index of the word, or -1 for background; or a
`Prediction` of such an array and a confidence.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from sseg_core.artifacts import Artifact
from sseg_core.data.images import RGBImage
from sseg_core.errors import ConfigError, DataError, did_you_mean, printable
from sseg_core.evaluation.examples import BACKGROUND
from sseg_core.evaluation.rivals.rival import Prediction
from sseg_core.inference.view import View
from sseg_core.inference.vocabulary import Vocabulary

_HOW = "It takes a list of images and one of class names, and returns a label map of each image."
_LABELS = "Whole numbers are needed: the index of the class name, or -1 for background."


class Plugin:
    """A model that is one function."""

    def __init__(self, reference: str) -> None:
        """Run the file and call its function.

        Args:
            reference: `FILE.py:FUNCTION`.

        Raises:
            ConfigError: there is no such file or function, or it fails or returns no function.
        """
        file, _, function = reference.rpartition(":")
        if not file.endswith(".py"):
            raise ConfigError(
                f"{reference} does not say which function of the file makes the model.",
                f"Add its name: {reference}:build.",
            )
        self.path = Path(file).resolve()
        self.reference = f"{self.path.name}:{function}"
        self.view: View | None = None
        self.parents: tuple[Artifact, ...] = ()
        self.notes = ("A plug-in: how it shows images and words to its model is its own affair",)
        build = _function(_import(self.path), function, self.path)
        self._segment: Callable[[list[RGBImage], list[str]], Any] = self._built(build, function)

    def _built(self, build: Callable[[], Any], function: str) -> Callable[..., Any]:
        try:
            segment = build()
        except (Exception, SystemExit) as error:  # whatever a stranger's code raises
            raise ConfigError(
                f"{function}() of {self.path.name} failed{_told(error, self.path)}",
                f"It is called without arguments and returns segment(images, class_names). {_HOW}",
            ) from error
        if not callable(segment):
            raise ConfigError(
                f"{function}() of {self.path.name} returned {_a(segment)}, not a function.",
                f"Return segment(images, class_names) itself, not its result. {_HOW}",
            )
        return segment  # type: ignore[no-any-return] # callable() tells no more

    def segment(self, images: Sequence[RGBImage], vocabulary: Vocabulary) -> list[Prediction]:
        """Return a label map of each image; see `Rival`.

        Raises:
            DataError: the stranger's function fails, or returns what is no label maps.
        """
        try:
            answers = list(self._segment(list(images), list(vocabulary.words)))
        except (Exception, SystemExit) as error:  # whatever a stranger's code raises
            raise DataError(f"{self.reference} failed{_told(error, self.path)}", _HOW) from error
        if len(answers) != len(images):
            raise DataError(
                f"{self.reference} returned {len(answers)} label maps for {len(images)} images.",
                "Return one for each image, in their order.",
            )
        return [self._prediction(answer, vocabulary) for answer in answers]

    def _prediction(self, answer: Any, vocabulary: Vocabulary) -> Prediction:
        if not isinstance(answer, Prediction):
            return Prediction(self._label_map(answer, vocabulary))
        confidence = answer.confidence
        if confidence is not None:
            confidence = self._array(confidence).astype(np.float32)
        return Prediction(self._label_map(answer.label_map, vocabulary), confidence)

    def _label_map(self, answer: Any, vocabulary: Vocabulary) -> npt.NDArray[np.int16]:
        words = self._array(answer)
        problem = None
        if np.issubdtype(words.dtype, np.floating) and np.isnan(words).any():
            problem = "with NaN in it"
        elif not np.issubdtype(words.dtype, np.integer):
            problem = f"of type {words.dtype}"
        elif words.size and (words.min() < BACKGROUND or words.max() >= len(vocabulary.words)):
            problem = (
                f"with labels from {words.min()} to {words.max()}, for {len(vocabulary.words)} "
                "class names"
            )
        if problem is not None:
            raise DataError(f"{self.reference} returned a label map {problem}.", _LABELS)
        return vocabulary.class_map(words.astype(np.int64))

    def _array(self, answer: Any) -> npt.NDArray[Any]:
        """Return what NumPy takes for an array of numbers."""
        try:
            array = np.asarray(answer)
        except Exception as error:  # tensors on a GPU or with gradients, lists of uneven rows
            raise DataError(
                f"{self.reference} returned {_a(answer)} that is no array: {_first_line(error)}",
                f"Return NumPy arrays; of a torch tensor, .detach().cpu().numpy(). {_LABELS}",
            ) from error
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"{self.reference} returned {_a(answer)}, which is no array of numbers.", _LABELS
            )
        return array


def _import(path: Path) -> ModuleType:
    if not path.is_file():
        raise ConfigError(f"There is no file {path}.", "Write --model FILE.py:FUNCTION.")
    name = f"sseg_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    # Files beside it can be imported, but never take the place of an installed package.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever a stranger's code raises
        del sys.modules[name]
        raise ConfigError(
            f"{path.name} cannot be imported{_told(error, path)}", "Mend the file."
        ) from error
    return module


def _function(module: ModuleType, name: str, path: Path) -> Callable[[], Any]:
    function = getattr(module, name, None)
    if not callable(function):
        own = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
        raise ConfigError(
            f"{path.name} has no function {name!r}.",
            did_you_mean(name, own) if own else "Define one that returns the model.",
        )
    return function  # type: ignore[no-any-return] # callable() tells no more


def _told(error: BaseException, path: Path) -> str:
    """Return where in the file and how it failed, as the end of a sentence."""
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(path) else None
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == str(path):
            line = frame.lineno  # the innermost of the file is the last
    place = "" if line is None else f" in line {line}"
    return f"{place}: {type(error).__name__}: {_first_line(error)}"


def _first_line(error: BaseException) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return printable(text.splitlines()[0], limit=200).rstrip(".") + "." if text else "no message."


def _a(value: object) -> str:
    return f"a {type(value).__name__}" if value is not None else "None"
