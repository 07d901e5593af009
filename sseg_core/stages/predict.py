"""`sseg predict`: images and class names in, overlays, label maps and one JSON file out."""

from __future__ import annotations

import glob
import json
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sseg_core.artifacts import Artifact, ArtifactStore, Draft
from sseg_core.config import PredictConfig
from sseg_core.data.images import IMAGE_SUFFIXES, ImageError, read_image
from sseg_core.data.shards import unique_keys
from sseg_core.errors import DataError, printable
from sseg_core.inference.render import palette_png
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.segmenter import Segmenter
from sseg_core.text.prompts import check_class_names
from sseg_core.tracking import SILENT, Progress

PREDICTIONS = "predictions.json"


def run(
    config: PredictConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
) -> Artifact:
    """Segment images by class names, and publish a `predictions` artifact.

    For every image the artifact holds `STEM.overlay.png` (the classes drawn over the image) and
    `STEM.labels.png` (a palette PNG of the image's size, 0 for background, i + 1 for class i),
    and for all of them `predictions.json`: `model`, `class_names`, `threshold`, `image_size`,
    `template` (None for a student, which is not asked with words) and `images`, in the order of the
    inputs, each with `file`, `overlay`, `label_map`, `width`, `height`, `background_share` and
    `classes`: `name`, `area_share`, `mean_probability` and `rle` (None where the class has no
    pixel). An image that cannot be read does not stop the others: it has `file`, `error` and
    `reason`. Stats: `images` done, `failed` by reason, `images_per_second` from pixels to label
    map.

    Raises:
        ConfigError: an unusable class name or template, or a class that a student does not know.
        DataError: an input matches no file, or none of the images can be read.
        ArtifactError: there is no checkpoint, or it was changed.
    """
    class_names = check_class_names(config.classes)
    paths = expand_images(config.images)
    segmenter = Segmenter.load(config.model, store=store, device=device)
    assert segmenter.artifact is not None
    if config.template is not None:
        segmenter.template = config.template
    segmenter.check(class_names)
    progress.message(f"checkpoint {segmenter.artifact.reference}")
    resolved = config.model_copy(update={"model": segmenter.artifact.reference})
    with store.draft(
        "predictions",
        name or "predictions",
        resolved.model_dump(mode="json"),
        [segmenter.artifact],
    ) as draft:
        _clear(draft)
        images: list[dict[str, Any]] = []
        errors: list[ImageError] = []
        seconds = 0.0
        progress.start("predict", len(paths), "images")
        for path, stem in zip(paths, unique_keys(path.stem for path in paths), strict=True):
            try:
                image = read_image(path, config.max_pixels)
            except ImageError as error:
                errors.append(error)
                images.append({"file": str(path), "error": error.message, "reason": error.reason})
                progress.message(f"skipped: {error.message}")
            else:
                start = time.perf_counter()
                segmentation = segmenter.segment(
                    image, class_names, threshold=config.threshold, image_size=config.image_size
                )
                seconds += time.perf_counter() - start
                images.append({"file": str(path), **_write_pictures(draft, stem, segmentation)})
            progress.advance()
        done = len(images) - len(errors)
        if not done:
            raise _nothing_done(errors)
        document = {
            "model": segmenter.artifact.reference,
            "class_names": class_names,
            "threshold": config.threshold,
            "image_size": config.image_size or segmenter.image_size,
            "template": segmenter.template,
            "images": images,
        }
        draft.partial(PREDICTIONS).write_text(json.dumps(document), encoding="utf-8")
        draft.commit(PREDICTIONS)
        return draft.publish(
            {
                "images": done,
                "failed": dict(Counter(error.reason for error in errors)),
                "images_per_second": round(done / max(seconds, 1e-9), 2),
            }
        )


def expand_images(inputs: Iterable[str]) -> list[Path]:
    """Return the files that the inputs name, each once, in their order.

    An input is a file, a folder (its images, sorted by name, not those of its subfolders), or a
    glob (`**` goes into subfolders).

    Raises:
        DataError: an input matches no file.
    """
    found: dict[Path, None] = {}
    for text in inputs:
        path = Path(text)
        if path.is_dir():
            files = [p for p in path.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES]
        elif path.exists():  # before globs: a file may have brackets in its name
            files = [path]
        else:
            files = [Path(match) for match in glob.glob(text, recursive=True)]
        files = sorted(file for file in files if file.is_file())
        if not files:
            what = "no image in the folder" if path.is_dir() else "no file"
            raise DataError(
                f"There is {what} {printable(text)}.",
                "Give files, folders with images, or globs such as 'photos/*.jpg'.",
            )
        found.update(dict.fromkeys(files))
    return list(found)


def _write_pictures(draft: Draft, stem: str, segmentation: Segmentation) -> dict[str, Any]:
    """Write overlay and label map of one image; return its entry in `predictions.json`."""
    pictures = {
        "overlay": segmentation.overlay(),
        "label_map": palette_png(segmentation.label_map, segmentation.class_names),
    }
    names = {"overlay": f"{stem}.overlay.png", "label_map": f"{stem}.labels.png"}
    for kind, picture in pictures.items():
        picture.save(draft.partial(names[kind]), format="PNG")
        draft.commit(names[kind])
    return {**names, **segmentation.to_json()}


def _nothing_done(errors: list[ImageError]) -> DataError:
    first = errors[0]
    if len(errors) == 1:
        return first
    return DataError(
        f"None of the {len(errors)} images can be used; the first: {first.message}", first.hint
    )


def _clear(draft: Draft) -> None:
    """Remove what an interrupted run left: its images may have changed since."""
    for leftover in draft.path.iterdir():
        leftover.unlink()
