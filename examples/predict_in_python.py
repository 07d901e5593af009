"""Segment a photo from Python, with the newest checkpoint of the artifact store.

python examples/predict_in_python.py photo.jpg "house, tree, sky"
python examples/predict_in_python.py photo.jpg @names.txt
"""

from __future__ import annotations

import sys

from sseg_core import Segmenter


def main() -> None:
    """Print the share of the photo that each class covers and save `overlay.png`."""
    photo, class_names = sys.argv[1:]
    segmentation = Segmenter.load().segment(photo, class_names)
    for name, share in segmentation.shares.items():
        print(f"{name:>20} {100 * share:5.1f} %")
    segmentation.overlay().save("overlay.png")


if __name__ == "__main__":
    main()
