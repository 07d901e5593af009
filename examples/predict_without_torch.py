"""Segment a photo with a model that `sseg export` wrote.

Needs onnxruntime, NumPy, Pillow, ftfy and regex, and no PyTorch: pip install --no-deps sseg

sseg export --out model/
python examples/predict_without_torch.py model/ photo.jpg "house, tree, sky"
"""

from __future__ import annotations

import sys

from PIL import Image

from sseg_core import Segmenter


def main() -> None:
    """Print the share of the photo that each class covers and save its label map."""
    model, photo, class_names = sys.argv[1:]
    segmentation = Segmenter.load(model).segment(photo, class_names, threshold=0.2)
    for name, share in segmentation.shares.items():
        print(f"{name:>20} {100 * share:5.1f} %")
    # 0 for background, 1 for the first class.
    Image.fromarray((segmentation.label_map + 1).astype("uint8")).save("labels.png")


if __name__ == "__main__":
    main()
