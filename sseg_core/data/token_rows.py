"""Rows of token ids, no longer than their texts need."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_LENGTH_STEP = 8  # lengths of texts are multiples of it: a compiler needs few shapes


def trimmed(token_ids_BL: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return token ids without the columns behind the longest text, up to a multiple of 8.

    The nouns and verbs of a caption fill a tenth of the context; nothing looks behind [EOS], the
    largest id of a row.
    """
    longest = int(token_ids_BL.argmax(axis=1).max()) + 1
    return np.ascontiguousarray(token_ids_BL[:, : -(-longest // _LENGTH_STEP) * _LENGTH_STEP])
