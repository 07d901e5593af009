#!/usr/bin/env bash
# Table 1 of the paper, for 4, 8 and 16 segments an image: how good pseudo-masks are whose segments
# are each told their best class, and what they cost.
#
#   examples/table1.sh DATA_DIR
#
# DATA_DIR holds VOC2012, or VOCdevkit/VOC2012, in the official layout. Generators whose weights are
# not on this machine are named and left out. BENCHMARK=context takes Pascal Context instead
# (VOC2010), LIMIT=20 the first 20 photos.
set -euo pipefail

data=${1:?usage: examples/table1.sh DATA_DIR}
benchmark=${BENCHMARK:-voc2012}

for masks in 4 8 16; do
  sseg eval --benchmark "$benchmark" --root "$data" --model oracle:all ${LIMIT:+--limit "$LIMIT"} \
    --set oracle.masks="$masks" --name "table1-$benchmark-k$masks"
done
