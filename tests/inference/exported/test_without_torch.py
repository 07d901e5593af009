"""An exported model runs with onnxruntime, NumPy, Pillow, ftfy and regex, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

PACKAGES = ("onnxruntime", "numpy", "pillow", "ftfy", "regex")

_SEGMENT = """
import sys
for name in ("torch", "pydantic", "pycocotools", "simplejpeg", "open_clip"):
    try:
        __import__(name)
    except ImportError:
        continue
    sys.exit(f"{name} is there")

import numpy as np
from sseg_core import Segmenter

model, photo, out, *names = sys.argv[1:]
segmenter = Segmenter.load(model)
result = segmenter.segment(photo, names, threshold=0.1)
np.savez(out, labels=result.label_map, probabilities=result.probabilities)
assert segmenter.artifact is None
assert result.overlay().width >= result.image.shape[1]
print(result.shares[names[0]])
"""


@pytest.fixture
def photo(tmp_path: Path, picture: Callable[..., np.ndarray]) -> Path:
    path = tmp_path / "photo.jpg"
    Image.fromarray(picture(120, 171)).save(path, quality=95)
    return path


@pytest.mark.parametrize("kind", ["words", "classes"])
def test_a_photo_is_segmented_without_torch(
    run_bare: Callable[..., str], words: Any, classes: Any, photo: Path, tmp_path: Path, kind: str
) -> None:
    """The label map is that of torch: words in any script, and classes of a student."""
    made = words if kind == "words" else classes(True)
    names = ("tiger", "naïve café", "дом", "&amp; 🐯") if kind == "words" else ("sky", "cat", "dog")
    out = tmp_path / "out.npz"
    printed = run_bare(PACKAGES, _SEGMENT, made.folder, photo, out, *names)
    # Pillow's decoder, which the bare environment has, may differ by a level from simplejpeg's.
    pixels = np.asarray(Image.open(photo).convert("RGB"))
    expected = made.network.segment(pixels, names, threshold=0.1)
    with np.load(out) as result:
        assert (result["labels"] == expected.label_map).mean() > 0.999
        np.testing.assert_allclose(result["probabilities"], expected.probabilities, atol=1e-4)
    assert len(np.unique(expected.label_map)) > 1
    assert float(printed) == pytest.approx(expected.shares[names[0]], abs=1e-3)


def test_without_onnxruntime_one_sentence_says_what_to_install(
    run_bare: Callable[..., str], words: Any
) -> None:
    code = """
import sys
from sseg_core import Segmenter
from sseg_core.errors import SsegError
try:
    Segmenter.load(sys.argv[1])
except SsegError as error:
    print(error)
"""
    printed = run_bare(("numpy", "pillow", "ftfy", "regex"), code, words.folder)
    assert printed == (
        "An exported model needs onnxruntime, which is not installed. "
        "Install it: pip install onnxruntime\n"
    )


def test_the_example_runs(
    run_bare: Callable[..., str], words: Any, photo: Path, tmp_path: Path
) -> None:
    """As its docstring says."""
    example = Path(__file__).parents[3] / "examples" / "predict_without_torch.py"
    code = (
        f"import os, runpy; os.chdir({str(tmp_path)!r}); "
        f"runpy.run_path({str(example)!r}, run_name='__main__')"
    )
    printed = run_bare(PACKAGES, code, words.folder, photo, "house, tree, sky")
    assert [line.split()[0] for line in printed.splitlines()] == ["house", "tree", "sky"]
    with Image.open(tmp_path / "labels.png") as labels:
        assert labels.size == (171, 120)
