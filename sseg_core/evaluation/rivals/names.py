"""What a `--model` names: a checkpoint or an export, or a rival of which kind."""

from __future__ import annotations

import re
from collections.abc import Mapping

from sseg_core.errors import ConfigError, did_you_mean

ORACLE = "oracle:"

KINDS: Mapping[str, str] = {
    "clip:ARCH[:WEIGHTS]": "CLIP's value embeddings (S-Seg App. A.3)",
    "maskclip:ARCH[:WEIGHTS]": "MaskCLIP (Zhou et al., ECCV 2022)",
    "clip-output:ARCH[:WEIGHTS]": "the tokens of CLIP as it is",
    "pseudomask-clip:ARCH[:WEIGHTS]": "pseudo-masks named by CLIP (S-Seg Table 2, B1)",
    "groupvit[:REPOSITORY]": "GroupViT (Xu et al., CVPR 2022)",
    "FILE.py:FUNCTION": "a model of your own",
}
"""What can be named besides checkpoints and oracles, and what it is."""

_KINDS = tuple(kind.partition(":")[0].partition("[")[0] for kind in KINDS if ".py" not in kind)
_VERSION = re.compile(r"v[0-9]+")


def names_checkpoint(reference: str | None) -> bool:
    """Return whether `reference` names a checkpoint, or a rival of another kind.

    Raises:
        ConfigError: it names neither.
    """
    if reference is None:
        return True
    kind, _, name = reference.partition(":")
    if is_plugin(reference) or kind in _KINDS:
        return False
    if name and not _VERSION.fullmatch(name) and "/" not in kind:
        raise ConfigError(
            f"There is no kind of model {kind!r}.", did_you_mean(kind, [*_KINDS, "oracle"])
        )
    return True


def is_plugin(reference: str) -> bool:
    """Return whether `reference` names a Python file."""
    return reference.endswith(".py") or ".py:" in reference
