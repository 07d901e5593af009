#!/usr/bin/env bash
# Does a student become better than its teacher? Recipe tiny on the toy world, 3 seeds of both:
# each teacher labels the 6,000 training scenes, and a UperNet learns from its labels alone.
#
#   examples/selftrain_toyworld.sh
#
# About 35 minutes on 2 CPU cores. Prints a Markdown table of mIoU on held-out scenes.
# A rerun skips what is there. SEEDS, STEPS (of the teacher) and SCENES may be set for a quick try.
set -euo pipefail

export SSEG_STORE=${SSEG_STORE:-sseg-selftrain}
seeds=${SEEDS:-0 1 2}
scenes=${SCENES:-6000}

have() { sseg artifacts show "$1" >/dev/null 2>&1; }

have pairs/toyworld || sseg download toyworld --set toyworld.scenes="$scenes"
have masks/toyworld || sseg pseudomask --pairs toyworld --features texture \
  --set image_size=96 --set grid=48

for seed in $seeds; do
  have "checkpoint/seed$seed" || sseg train --recipe tiny --masks toyworld --name "seed$seed" \
    --set seed="$seed" --set steps="${STEPS:-700}"
  have "scores/seed$seed-plus" || sseg selftrain --benchmark toyworld --teacher "seed$seed" \
    --limit "$scenes" --set seed="$seed"
done

SEEDS="$seeds" python - <<'PYTHON'
import os
import statistics

from sseg_core.artifacts import ArtifactStore

store = ArtifactStore.default()
seeds = os.environ["SEEDS"].split()
rows = {"teacher: S-Seg": "seed{}-plus-teacher", "student: S-Seg+": "seed{}-plus"}
print("| | mIoU, each seed | mean | objects only |")
print("|---|---|---|---|")
for title, name in rows.items():
    stats = [store.find(name.format(seed), "scores").manifest.stats for seed in seeds]
    each = ", ".join(f"{s['miou']:.1f}" for s in stats)
    means = [statistics.mean(s[key] for s in stats) for key in ("miou", "miou_objects")]
    print(f"| {title} | {each} | {means[0]:.1f} | {means[1]:.1f} |")
PYTHON
