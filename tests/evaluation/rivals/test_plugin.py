"""A stranger's model from a file, and everything that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

from sseg_core.errors import ConfigError, DataError
from sseg_core.evaluation.rivals.names import is_plugin
from sseg_core.evaluation.rivals.plugin import Plugin
from sseg_core.inference.vocabulary import Vocabulary

WORDS = Vocabulary.of(("cat", "dog"), synonyms={"dog": ("dog", "puppy")}, background=("sky",))
IMAGES = [np.zeros((2, 3, 3), np.uint8), np.full((4, 1, 3), 9, np.uint8)]


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Plugin]:
    """Loads a file with the given text; `answer` stands for what `segment` returns."""

    def load(text: str = "", answer: str = "", function: str = "build") -> Plugin:
        if answer:
            text = f"""
                import numpy as np

                def build():
                    def segment(images, class_names):
                        return {answer}
                    return segment
                """
        path = tmp_path / "my_model.py"
        path.write_text(dedent(text))
        return Plugin(f"{path}:{function}")

    return load


def test_it_is_asked_for_words_and_gives_classes(plugin: Callable[..., Plugin]) -> None:
    """Synonyms and words for background are separate words to it; -1 is background as well."""
    rival = plugin(
        """
        import numpy as np

        class Model:
            def __call__(self, images, class_names):
                assert class_names == ["cat", "dog", "puppy", "sky"], class_names
                assert all(image.dtype == np.uint8 for image in images)
                return [np.full(image.shape[:2], i + 2, np.uint8) for i, image in enumerate(images)]

        def build():
            return Model()
        """
    )
    first, second = rival.segment(IMAGES, WORDS)
    assert first.label_map.tolist() == [[1, 1, 1]] * 2
    assert second.label_map.tolist() == [[-1]] * 4
    assert first.label_map.dtype == np.int16
    assert first.confidence is None
    assert rival.reference == "my_model.py:build"
    assert rival.view is None


@pytest.mark.parametrize(
    "answer",
    [
        "np.zeros((2, 2, 3), int) - 1",
        "[[[-1, -1, -1], [-1, -1, -1]]] * 2",
        "(np.full((2, 3), -1, np.int64) for _ in images)",
        "[__import__('torch').full((2, 3), -1) for _ in images]",
    ],
)
def test_any_whole_numbers_will_do(answer: str, plugin: Callable[..., Plugin]) -> None:
    """One array of all, nested lists, a generator, tensors on the CPU."""
    predictions = plugin(answer=answer).segment(IMAGES[:1] * 2, WORDS)
    assert [p.label_map.tolist() for p in predictions] == [[[-1] * 3] * 2] * 2


def test_a_prediction_brings_its_confidence(plugin: Callable[..., Plugin]) -> None:
    """As float32, beside a label map that is mapped like any other."""
    rival = plugin(
        """
        import numpy as np
        from sseg_core.evaluation.rivals.rival import Prediction

        def build():
            return lambda images, names: [
                Prediction(np.full(i.shape[:2], 2), np.full(i.shape[:2], 0.25)) for i in images
            ]
        """
    )
    prediction = rival.segment(IMAGES[:1], WORDS)[0]
    assert prediction.label_map.tolist() == [[1] * 3] * 2
    assert prediction.confidence is not None
    assert prediction.confidence.dtype == np.float32
    assert (prediction.confidence == 0.25).all()


def test_files_beside_it_can_be_imported(plugin: Callable[..., Plugin], tmp_path: Path) -> None:
    """As where a script runs, and dataclasses find their module."""
    (tmp_path / "net_beside.py").write_text("LABEL = 0\n")
    rival = plugin(
        """
        from __future__ import annotations
        from dataclasses import dataclass
        import numpy as np

        @dataclass
        class Model:
            label: int
            def __call__(self, images, class_names):
                from net_beside import LABEL
                return [np.full(i.shape[:2], LABEL + self.label) for i in images]

        def build():
            return Model(0)
        """
    )
    assert rival.segment(IMAGES[:1], WORDS)[0].label_map.tolist() == [[0] * 3] * 2


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        ("[np.zeros((2, 3), int)]", "returned 1 label maps for 2 images", "one for each image"),
        ("None", r"failed: TypeError: 'NoneType' object is not iterable\.", "list of images"),
        ("5", "TypeError: 'int' object is not iterable", "list of images"),
        ("[None, None]", "returned None, which is no array of numbers", "Whole numbers"),
        ("['cat', 'dog']", "returned a str, which is no array of numbers", "Whole numbers"),
        ("[np.zeros((2, 3))] * 2", "a label map of type float64", "Whole numbers"),
        ("[np.full((2, 3), np.nan)] * 2", "a label map with NaN in it", "Whole numbers"),
        ("[np.zeros((2, 3), bool)] * 2", "a label map of type bool", "Whole numbers"),
        ("[np.full((2, 3), 4)] * 2", "labels from 4 to 4, for 4 class names", "Whole numbers"),
        ("[np.full((2, 3), 255, np.uint8)] * 2", "labels from 255 to 255", "-1 for background"),
        ("[np.full((2, 3), -2)] * 2", "labels from -2 to -2", "-1 for background"),
        ("[[[1, 2], [3]]] * 2", "returned a list that is no array", r".detach().cpu().numpy()"),
        (
            "[__import__('torch').zeros(2, 3, requires_grad=True)] * 2",
            "returned a Tensor that is no array",
            ".detach().cpu().numpy()",
        ),
        ("1 / 0", r"in line 6: ZeroDivisionError: division by zero\.", "list of images"),
        ("exit(3)", "in line 6: SystemExit: 3", "list of images"),
        ("(1 / i.ndim for i in [1])", "in line 6: AttributeError: 'int' object has no", "images"),
    ],
)
def test_answers_that_are_no_label_maps_are_refused(
    answer: str, message: str, hint: str, plugin: Callable[..., Plugin]
) -> None:
    """In one sentence that names the file, its line where it failed, and what is needed."""
    rival = plugin(answer=answer)
    with pytest.raises(DataError, match=message) as error:
        rival.segment(IMAGES, WORDS)
    assert "my_model.py:build" in error.value.message
    assert hint in error.value.hint
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("x = 1\nx +", "cannot be imported in line 2: SyntaxError: invalid syntax", "Mend"),
        ("import no_such_thing", "in line 1: ModuleNotFoundError: No module named", "Mend"),
        ("\nraise SystemExit", "cannot be imported in line 2: SystemExit: no message", "Mend"),
        ("def bild(): ...", "has no function 'build'", "'bild'"),
        ("build = 3", "has no function 'build'", "Define one"),
        ("def build(): ...", r"build\(\) of my_model.py returned None", "Return segment("),
        ("def build(): return [1]", "returned a list, not a function", "not its result"),
        ("def build(): return 1 / 0", "failed in line 1: ZeroDivisionError", "without arguments"),
        (
            "def build(images, class_names): ...",
            "failed: TypeError: build.. missing 2 required positional arguments",
            "without arguments and returns segment(images, class_names)",
        ),
    ],
)
def test_files_that_make_no_model_are_refused(
    text: str, message: str, hint: str, plugin: Callable[..., Plugin]
) -> None:
    """With the line where they fail, and how it should be."""
    with pytest.raises(ConfigError, match=message) as error:
        plugin(text)
    assert hint in error.value.hint
    assert "\n" not in str(error.value)


def test_references_are_told_apart(tmp_path: Path) -> None:
    """A Python file, with or without the name of its function, is a plug-in; a version is not."""
    assert is_plugin("my_model.py:build")
    assert is_plugin("a/b.py")
    assert not is_plugin("clip:ViT-B-16")
    assert not is_plugin("demo:v2")
    with pytest.raises(ConfigError, match="does not say which function") as error:
        Plugin("a/b.py")
    assert "a/b.py:build" in error.value.hint
    with pytest.raises(ConfigError, match="There is no file"):
        Plugin(f"{tmp_path}/none.py:build")
