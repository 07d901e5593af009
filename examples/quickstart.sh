#!/usr/bin/env bash
# The pipeline of `sseg demo`, one stage at a time, on the built-in toy world.
# About 4 minutes on 2 CPU cores; artifacts go to ./sseg-artifacts (or $SSEG_STORE).
set -euo pipefail

sseg download toyworld
sseg pseudomask --pairs toyworld
sseg train --recipe tiny --masks toyworld
sseg eval --benchmark toyworld --model tiny
sseg eval --benchmark toyworld --model oracle:texture   # what the pseudo-masks themselves allow
sseg artifacts
