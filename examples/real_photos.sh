#!/usr/bin/env bash
# The whole chain on real photographs: captions in, a segmented photo out.
#
#   examples/real_photos.sh DATA_DIR
#
# DATA_DIR holds pairs-mini/captions.jsonl (captioned photos) and voc-mini/VOC2012 (the official
# VOC layout). About 15 minutes on 2 CPU cores. A thousand photos teach next to nothing: expect a
# score close to `constant_miou`, the best constant prediction, which eval prints beside it.
set -euo pipefail

data=${1:?usage: examples/real_photos.sh DATA_DIR}
voc=$data/voc-mini/VOC2012

sseg download "pairs:$data/pairs-mini/captions.jsonl" --root "$data/pairs-mini" --name photos
sseg pseudomask --pairs photos --name photos
sseg train --recipe tiny --masks photos --name photos \
  --set steps="${STEPS:-300}" --set batch_size=32 --set loader.load_size=128 \
  --set loader.crop_size=112
sseg eval --benchmark voc2012 --root "$voc" --model photos
sseg eval --benchmark voc2012 --root "$voc" --model photos --set background=exclude
sseg eval --benchmark voc2012 --root "$voc" --model oracle:texture
photo=$(head -n 1 "$voc/ImageSets/Segmentation/val.txt")
sseg predict "$voc/JPEGImages/$photo.jpg" --model photos --classes "person,dog,cat,grass,sky"
