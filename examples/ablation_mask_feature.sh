#!/usr/bin/env bash
# What should a mask feature be? The decoder query (the paper) or the mask-weighted mean of the
# pixel features (ours), each with plain and with masked attention, on the toy world, 3 seeds.
#
#   examples/ablation_mask_feature.sh
#
# About 40 minutes on 2 CPU cores. Prints a Markdown table of held-out open-vocabulary mIoU.
# A rerun skips what is there. STEPS, SEEDS and SCENES may be set for a quick try.
set -euo pipefail

export SSEG_STORE=${SSEG_STORE:-sseg-ablation}
steps=${STEPS:-400}
seeds=${SEEDS:-0 1 2}

have() { sseg artifacts show "$1" >/dev/null 2>&1; }

have pairs/toyworld || sseg download toyworld --set toyworld.scenes="${SCENES:-6000}"
have masks/toyworld || sseg pseudomask --pairs toyworld --features texture \
  --set image_size=96 --set grid=48

for feature in query pooled; do
  for masked in false true; do
    for seed in $seeds; do
      name=$feature-$masked-$seed-$steps
      have "checkpoint/$name" || sseg train --recipe tiny --masks toyworld --name "$name" \
        --set model.decoder.mask_feature=$feature --set model.decoder.masked_attention=$masked \
        --set seed="$seed" --set steps="$steps"
      have "scores/$name" || sseg eval --benchmark toyworld --model "$name" --name "$name"
    done
  done
done

SEEDS="$seeds" STEPS="$steps" python - <<'PYTHON'
import os
import statistics

from sseg_core.artifacts import ArtifactStore

store = ArtifactStore.default()
print("| mask feature | cross-attention | mIoU, each seed | mean |")
print("|---|---|---|---|")
for feature, label in (("query", "decoder query (paper)"), ("pooled", "mask-weighted mean")):
    for masked, attention in (("false", "plain"), ("true", "masked")):
        scores = [
            store.find(f"{feature}-{masked}-{seed}-{os.environ['STEPS']}", "scores").manifest.stats["miou"]
            for seed in os.environ["SEEDS"].split()
        ]
        each = ", ".join(f"{score:.1f}" for score in scores)
        print(f"| {label} | {attention} | {each} | {statistics.mean(scores):.1f} |")
PYTHON
