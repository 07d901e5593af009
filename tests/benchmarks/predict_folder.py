"""`sseg predict` over a folder of photos beside its bare network, and from start to first result.

    python tests/benchmarks/predict_folder.py PHOTOS [--count 40] [--classes 20]

The model has the sizes of recipe `paper` and random weights. The bare network sees the same photos,
decoded and resized beforehand, one after the other: no reading, no combination of masks, no
pictures. Then `sseg predict` reads, segments and writes everything that it writes. Both run in this
process, in turn, three times; medians count.

The second table is of new processes: what it takes to import torch and timm, build the network and
read its weights, beside `sseg predict` of one photo from the start to its end.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from sseg_core.artifacts import ArtifactStore
from sseg_core.checkpoint import WEIGHTS, save_weights
from sseg_core.config import PredictConfig
from sseg_core.data.images import read_image
from sseg_core.inference.image_input import at_short_side
from sseg_core.inference.segmenter import Segmenter
from sseg_core.models.build import build_model
from sseg_core.recipes import recipe
from sseg_core.stages import predict

REPEATS = 3
BARE = """
import sys, torch, timm
from safetensors.torch import load_file
from sseg_core.models.build import build_model
from sseg_core.recipes import recipe
model = build_model(recipe("paper").model).eval()
model.load_state_dict(load_file(sys.argv[1]))
"""


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--classes", type=int, default=20)
    options = parser.parse_args()
    photos = sorted(options.photos.glob("*.jpg"))[: options.count]
    names = tuple(f"thing {number}" for number in range(options.classes))
    with tempfile.TemporaryDirectory() as folder:
        store = ArtifactStore(Path(folder))
        config = recipe("paper")
        with store.draft("checkpoint", "random", config.model_dump(mode="json")) as draft:
            save_weights(build_model(config.model), draft.path / WEIGHTS)
            weights = draft.publish({"steps": 0}).path / WEIGHTS
        bare, whole = _rates(store, photos, names)
        print(f"{len(photos)} photos, {len(names)} classes, {torch.get_num_threads()} threads")
        print(f"bare network  {bare:6.2f} images/s")
        print(f"sseg predict  {whole:6.2f} images/s, {whole / bare:.2f} of it")
        command = [
            sys.executable, "-m", "sseg_cli", "predict", str(photos[0]), "--classes",
            ",".join(names),
        ]  # fmt: skip
        environment = {**os.environ, "SSEG_STORE": folder}
        start_bare = _seconds([sys.executable, "-c", BARE, str(weights)], environment)
        start = _seconds(command, environment)
        first = statistics.median(_forward_seconds(store, photos[0]) for _ in range(REPEATS))
        print(f"import torch, timm, load the model    {start_bare:5.2f} s")
        print(
            f"sseg predict of one photo, to its end {start:5.2f} s, {start / start_bare:.2f} times"
        )
        print(f"  of which the forward pass of the photo {first:5.2f} s")


def _rates(store: ArtifactStore, photos: list[Path], names: tuple[str, ...]) -> tuple[float, float]:
    segmenter = Segmenter.load(store=store)
    network = segmenter._network
    model = network._model  # type: ignore[attr-defined]
    images = [at_short_side(read_image(path, 10**9), segmenter.image_size) for path in photos]
    inputs = [torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255 for image in images]
    config = PredictConfig(images=tuple(map(str, photos)), classes=names)
    bare, whole = [], []
    for number in range(REPEATS + 1):  # the first warms up
        start = time.perf_counter()
        with torch.inference_mode():
            for pixels in inputs[: 3 if number == 0 else None]:
                model.encode_images(pixels)
        bare.append(len(photos) / (time.perf_counter() - start))
        whole.append(predict.run(config, store).manifest.stats["images_per_second"])
    return statistics.median(bare[1:]), statistics.median(whole[1:])


def _forward_seconds(store: ArtifactStore, photo: Path) -> float:
    segmenter = Segmenter.load(store=store)
    image = read_image(photo, 10**9)
    start = time.perf_counter()
    segmenter.segment(image, ["one", "other"])
    return time.perf_counter() - start


def _seconds(command: list[str], environment: dict[str, str]) -> float:
    def once() -> float:
        start = time.perf_counter()
        subprocess.run(command, env=environment, check=True, capture_output=True)
        return time.perf_counter() - start

    once()  # files come from the disk
    return statistics.median(once() for _ in range(REPEATS))


if __name__ == "__main__":
    main()
