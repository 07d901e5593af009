"""The text encoder: a causal transformer as in CLIP, read at [EOS] (S-Seg App. A.1).

Shapes as in `structures.py`; D here is the width of the encoder.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.config import TextConfig
from sseg_core.errors import ConfigError
from sseg_core.text.tokenizer import VOCAB_SIZE

_MLP_RATIO = 4


class TextEncoder(nn.Module):
    """Turns the token ids of texts into one feature each, not projected, not normalised.

    The projection to the common space is the model's, as for the mask features (S-Seg Sec. 3.2).
    """

    def __init__(self, config: TextConfig, vocab_size: int = VOCAB_SIZE) -> None:
        super().__init__()
        if config.width % config.heads:
            raise ConfigError(
                f"A text width of {config.width} does not divide into {config.heads} heads.",
                "Choose text.width as a multiple of text.heads.",
            )
        self.context_length = config.context_length
        self.token_embedding = nn.Embedding(vocab_size, config.width)
        self.position_embedding = nn.Parameter(torch.empty(config.context_length, config.width))
        self.blocks = nn.ModuleList(
            _Block(config.width, config.heads) for _ in range(config.layers)
        )
        self.final_norm = nn.LayerNorm(config.width)
        self._initialise()

    def forward(self, token_ids_BL: Tensor) -> Tensor:
        """Return the feature of each text at its [EOS], [B, D].

        Args:
            token_ids_BL: [B, L] int64, L at most the context length, as `Tokenizer` gives them:
                [EOS] is the largest id. What follows it has no influence, only a cost: columns
                after the last [EOS] are best left out while the ids are on the host.
        """
        length = token_ids_BL.shape[1]
        assert length <= self.context_length, (length, self.context_length)
        end_B = token_ids_BL.argmax(dim=1)  # the first of the largest, as in CLIP
        x_BLD = self.token_embedding(token_ids_BL) + self.position_embedding[:length]
        for block in self.blocks:
            x_BLD = block(x_BLD)
        rows_B = torch.arange(x_BLD.shape[0], device=x_BLD.device)
        # The norm works on each token by itself, so only those that are read go through it.
        features_BD: Tensor = self.final_norm(x_BLD[rows_B, end_B])
        return features_BD

    def _initialise(self) -> None:
        """Draw the weights as CLIP does; biases are zero (our choice, not in the paper).

        Embeddings: std 0.02, positions 0.01. Weights into a block: D^-1/2 (attention) and
        (2D)^-1/2 (MLP). Weights out of a block: D^-1/2 (2 layers)^-1/2, so that the sum of all
        2 * layers branches keeps its size.
        """
        width = self.token_embedding.embedding_dim
        out_std = (2 * width * len(self.blocks)) ** -0.5
        nn.init.normal_(self.token_embedding.weight, std=0.02)
        nn.init.normal_(self.position_embedding, std=0.01)
        for block in self.blocks:
            assert isinstance(block, _Block)
            for layer, std in (
                (block.attention_in, width**-0.5),
                (block.attention_out, out_std),
                (block.mlp_in, (2 * width) ** -0.5),
                (block.mlp_out, out_std),
            ):
                nn.init.normal_(layer.weight, std=std)
                nn.init.zeros_(layer.bias)


class _Block(nn.Module):
    """Causal self-attention and a GELU MLP, each with a LayerNorm before and a sum after."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.attention_in = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, _MLP_RATIO * width)
        self.mlp_out = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x_BLD = x_BLD + self._attend(self.attention_norm(x_BLD))
        hidden_BLM = F.gelu(self.mlp_in(self.mlp_norm(x_BLD)))
        y_BLD: Tensor = x_BLD + self.mlp_out(hidden_BLM)
        return y_BLD

    def _attend(self, x_BLD: Tensor) -> Tensor:
        # Heads n of d numbers each: [B, L, 3 D] -> three of [B, n, L, d].
        query, key, value = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)
            for part in self.attention_in(x_BLD).chunk(3, dim=2)
        )
        mixed_BnLd = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        y_BLD: Tensor = self.attention_out(mixed_BnLd.transpose(1, 2).flatten(2))
        return y_BLD
