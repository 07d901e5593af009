"""`sseg predict`: images and class names in; overlays, label maps, JSON and a page out."""

from __future__ import annotations

import json
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from sseg_core.artifacts import Artifact, ArtifactStore, Draft
from sseg_core.config import PredictConfig
from sseg_core.data.images import ImageError, RGBImage
from sseg_core.data.photo_stream import PixelBudget, decoded_photos
from sseg_core.data.photos import Photo, list_photos
from sseg_core.errors import DataError
from sseg_core.inference.render import palette_png
from sseg_core.inference.segmentation import Segmentation
from sseg_core.inference.viewer import viewer_card, write_viewer
from sseg_core.stages.answering import Answerer, open_model
from sseg_core.tracking import SILENT, Progress

PREDICTIONS = "predictions.jsonl"
VIEWER = "viewer.html"

_WRITERS = 2
_BEHIND = 8
"""Images that may wait to be written."""

_PNG: dict[str, dict[str, int]] = {
    "overlay": {"compress_level": 1, "compress_type": zlib.Z_RLE},
    "label_map": {"compress_level": 4},
}
"""Options of Pillow's writer: more compression takes far longer, for a few bytes less."""

Entry = dict[str, Any]
T = TypeVar("T")


def run(
    config: PredictConfig,
    store: ArtifactStore,
    *,
    name: str | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    each: Callable[[Entry], None] | None = None,
) -> Artifact:
    """Segment images by class names, and publish a `predictions` artifact.

    For every image the artifact holds `STEM.overlay.png` (the classes drawn over the image),
    `STEM.labels.png` (a palette PNG of the image's size, 0 for background, i + 1 for class i) and,
    with `npz`, `STEM.npz` (`probabilities` [C, H, W] float16, `label_map` [H, W] int16 and
    `class_names`). For all of them it holds `viewer.html`, a page to look at, and
    `predictions.jsonl`, a JSON object a line in the order of the inputs: `file`, the names of these
    files, `width`, `height`, `background_share` and `classes`, those that were found, each with
    `name`, `index`, `area_share`, `mean_probability`, `bbox`, `rle` and `polygons`. An image that
    cannot be used does not stop the others: its line has `file`, `error` and `reason`.

    Images are read, segmented and written side by side; a run that was interrupted goes on with
    the images that it lacks, and with files that have changed since.

    Stats: `images` done, `failed` by reason, `images_per_second` from the first photo to the last
    picture, `model`, `class_names`.

    Args:
        config: what to do.
        store: where checkpoints are, and the predictions go.
        name: of the artifact; default: predictions.
        device: where to compute.
        progress: told what is done.
        each: called with the entry of each image, in their order, as soon as it is written.

    Raises:
        ConfigError: an unusable class name, template or option, or a class that a student does
            not know.
        DataError: an input matches no file, or none of the images can be used.
        ArtifactError: there is no checkpoint, or it was changed.
    """
    photos = list_photos(config.images)
    model = open_model(config, store, device)
    progress.message(f"model {model.reference}")
    for note in model.notes:
        progress.message(note)
    resolved = config.model_copy(update={"model": model.reference})
    with store.draft(
        "predictions", name or "predictions", resolved.model_dump(mode="json"), model.parents
    ) as draft:
        work = _Work(config, draft, model)
        start = time.perf_counter()
        progress.start("predict", len(photos), "images")
        good: list[Photo] = []
        failed: Counter[str] = Counter()
        first_error: ImageError | None = None
        with draft.partial(PREDICTIONS).open("w", encoding="utf-8") as lines:
            for photo, (entry, error) in zip(photos, work.entries(photos), strict=True):
                lines.write(json.dumps(entry, ensure_ascii=False) + "\n")
                if error is None:
                    good.append(photo)
                else:
                    failed[error.reason] += 1
                    first_error = first_error or error
                    progress.message(f"skipped: {error.message}")
                if each is not None:
                    each(entry)
                progress.advance()
        draft.commit(PREDICTIONS)
        if first_error is not None and not good:
            raise _nothing_done(first_error, failed.total())
        seconds = time.perf_counter() - start
        work.write_viewer(good)
        work.drop_leftovers(good)
        return draft.publish(
            {
                "images": len(good),
                "failed": dict(failed),
                "images_per_second": round(work.made / max(seconds, 1e-9), 2),
                "model": model.reference,
                "class_names": list(model.vocabulary.class_names),
            }
        )


class _Work:
    """What is made of the photos, and where it is kept until all of them are done.

    Attributes:
        made: images that were segmented, less those that an interrupted run left.
    """

    def __init__(self, config: PredictConfig, draft: Draft, model: Answerer) -> None:
        self._config = config
        self._draft = draft
        self._model = model
        self._notes = draft.scratch / "images"
        self._notes.mkdir(exist_ok=True)
        self._budget = PixelBudget(config.batch_size)
        self._versions: dict[str, str | None] = {}
        self.made = 0

    def entries(self, photos: list[Photo]) -> Iterator[tuple[Entry, ImageError | None]]:
        """Yield the entry of each photo in its order, and what is wrong with it."""
        # Before they are read: a file that changes later is then known to have changed.
        self._versions = {photo.stem: photo.version() for photo in photos}
        done = {photo.stem for photo in photos if self._is_done(photo)}
        fresh = self._fresh([photo for photo in photos if photo.stem not in done])
        for photo in photos:
            if photo.stem in done:
                yield json.loads(self._entry(photo).read_text(encoding="utf-8")), None
            else:
                yield next(fresh)

    def write_viewer(self, photos: list[Photo]) -> None:
        """Write the page of the photos that could be used, from their cards."""
        if not self._config.viewer:
            return
        shown = photos[: self._config.viewer]
        texts = (self._card(photo).read_text(encoding="utf-8") for photo in shown)
        with self._draft.partial(VIEWER).open("w", encoding="utf-8") as stream:
            write_viewer(
                stream,
                texts,
                model=self._model.reference,
                class_names=self._model.vocabulary.class_names,
                total=len(photos),
            )
        self._draft.commit(VIEWER)

    def drop_leftovers(self, photos: list[Photo]) -> None:
        """Remove what an interrupted run left of all but these photos."""
        kept = {PREDICTIONS, VIEWER}
        kept.update(name for photo in photos for name in self._names(photo).values())
        for path in self._draft.path.iterdir():
            if path.name not in kept:
                path.unlink()

    def _fresh(self, photos: list[Photo]) -> Iterator[tuple[Entry, ImageError | None]]:
        """Read, segment and write photos side by side."""
        config = self._config
        writing: deque[tuple[Photo, RGBImage | ImageError, Future[Entry] | None]] = deque()

        def finished() -> tuple[Entry, ImageError | None]:
            photo, image, future = writing.popleft()
            if future is not None:
                return future.result(), None
            assert isinstance(image, ImageError)
            return {"file": photo.name, "error": image.message, "reason": image.reason}, image

        stream = decoded_photos(
            photos,
            lambda photo: photo.read(config.max_megabytes * 10**6, config.timeout),
            max_pixels=config.max_pixels,
            budget=self._budget,
        )
        with ThreadPoolExecutor(_WRITERS, thread_name_prefix="write") as pool:
            for batch in _batches(stream, config.batch_size):
                images = [image for _, image in batch if not isinstance(image, ImageError)]
                answers = iter(self._model.answer(images) if images else [])
                for photo, image in batch:
                    future = None
                    if not isinstance(image, ImageError):
                        future = pool.submit(self._write, photo, next(answers))
                        self.made += 1
                    writing.append((photo, image, future))
                # As soon as they are done, and at the latest when too many wait.
                while writing and (len(writing) > _BEHIND or _is_done(writing[0][2])):
                    yield finished()
            while writing:
                yield finished()

    def _write(self, photo: Photo, segmentation: Segmentation) -> Entry:
        """Write everything of one image; return its entry."""
        names = self._names(photo)
        try:
            pictures = {
                "overlay": segmentation.overlay(),
                "label_map": palette_png(segmentation.label_map, segmentation.class_names),
            }
            if "probabilities" in names:
                assert segmentation.class_probabilities is not None
                with self._draft.partial(names["probabilities"]).open("wb") as stream:
                    np.savez_compressed(
                        stream,
                        probabilities=segmentation.class_probabilities.astype(np.float16),
                        label_map=segmentation.label_map,
                        class_names=np.array(segmentation.class_names),
                    )
                self._draft.commit(names["probabilities"])
            entry = {"file": photo.name, **names, **segmentation.to_json()}
            self._entry(photo).write_text(json.dumps(entry), encoding="utf-8")
            if self._config.viewer:
                title = "standard input" if photo.kind == "stdin" else photo.name
                self._card(photo).write_text(viewer_card(title, segmentation), encoding="utf-8")
            for kind, picture in pictures.items():
                picture.save(self._draft.partial(names[kind]), format="PNG", **_PNG[kind])
                # The label map comes last, and its note says that everything is there.
                self._draft.commit(names[kind], {"version": self._versions[photo.stem]})
            return entry
        finally:
            height, width = segmentation.label_map.shape
            self._budget.leave(height * width)

    def _names(self, photo: Photo) -> dict[str, str]:
        names = {"overlay": f"{photo.stem}.overlay.png", "label_map": f"{photo.stem}.labels.png"}
        return names | ({"probabilities": f"{photo.stem}.npz"} if self._config.npz else {})

    def _is_done(self, photo: Photo) -> bool:
        note: Mapping[str, Any] = self._draft.finished.get(self._names(photo)["label_map"], {})
        version = self._versions[photo.stem]
        if version is None or note.get("version") != version:
            return False
        try:
            entry = json.loads(self._entry(photo).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(entry["file"] == photo.name)

    def _entry(self, photo: Photo) -> Path:
        return self._notes / f"{photo.stem}.json"

    def _card(self, photo: Photo) -> Path:
        return self._notes / f"{photo.stem}.card"


def read_entries(artifact: Artifact) -> Iterable[Entry]:
    """Yield the entries of the images of a `predictions` artifact, in their order."""
    with artifact.file(PREDICTIONS).open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _batches(stream: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(stream)
    while batch := list(islice(iterator, size)):
        yield batch


def _is_done(future: Future[Entry] | None) -> bool:
    return future is None or future.done()


def _nothing_done(first: ImageError, count: int) -> DataError:
    if count == 1:
        return first
    return DataError(
        f"None of the {count} images can be used; the first: {first.message}", first.hint
    )
