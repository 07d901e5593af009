"""The transformer decoder of MaskFormer: queries look at the image and become masks."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.config import DecoderConfig
from sseg_core.errors import ConfigError
from sseg_core.models.pixel_decoder import init_convolution


class MaskDecoder(nn.Module):
    """DETR decoder over the backbone's coarsest level, without a classifier (S-Seg Sec. 3.2).

    The queries start at zero and carry a learned position, as in DETR and MaskFormer.

    With `masked_attention` a query looks, from the second layer on, only at the cells where the
    mask that it predicted one layer before is at least 0.5 likely (Mask2Former Eq. 2-3). In the
    first layer it looks everywhere, for all queries are still equal; so does later a query whose
    mask is empty.

    Args:
        config: the decoder's options.
        in_channels: channels of the backbone's coarsest level.

    Raises:
        ConfigError: the width cannot be split into heads, sine pairs or norm groups.
    """

    def __init__(self, config: DecoderConfig, in_channels: int) -> None:
        super().__init__()
        width = config.hidden_dim
        if width % config.heads or width % 8:
            raise ConfigError(
                f"decoder.hidden_dim must be a multiple of 8 and of decoder.heads "
                f"({config.heads}), got {width}.",
                "For example: --set decoder.hidden_dim=256",
            )
        self.masked_attention = config.masked_attention
        self.input_projection = nn.Conv2d(in_channels, width, kernel_size=1)
        self.query_position = nn.Parameter(torch.randn(config.num_queries, width))
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.mask_embedder = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
            nn.Linear(width, width),
        )  # fmt: skip
        init_convolution(self.input_projection)

    def forward(
        self, coarsest_BChw: Tensor, pixel_embedding_BDhw: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the final queries and the mask logits after every layer.

        Args:
            coarsest_BChw: [B, C, h', w'], the backbone's coarsest level.
            pixel_embedding_BDhw: [B, D, h, w] from the pixel decoder.

        Returns:
            queries: [B, Q, D], the output of the last layer, normalised.
            mask_logits: one [B, Q, h, w] tensor per layer, the last layer's last.
        """
        memory_BDhw: Tensor = self.input_projection(coarsest_BChw)
        grid_h, grid_w = memory_BDhw.shape[-2:]
        memory = memory_BDhw.flatten(2).transpose(1, 2)
        memory_position = sine_position(grid_h, grid_w, memory_BDhw.shape[1], memory.device)
        coarse_embedding = None
        if self.masked_attention:
            # Interpolation is linear: mask logits of the resized embedding are the resized
            # mask logits, for less work.
            coarse_embedding = F.interpolate(
                pixel_embedding_BDhw.detach(),
                size=(grid_h, grid_w),
                mode="bilinear",
                align_corners=False,
            ).flatten(2)

        queries = torch.zeros_like(self.query_position).expand(memory.shape[0], -1, -1)
        visible: Tensor | None = None
        after_layers: list[Tensor] = []
        for layer in self.layers:
            if coarse_embedding is not None and after_layers:
                visible = self._visible_cells(after_layers[-1], coarse_embedding)
            queries = layer(queries, self.query_position, memory, memory_position, visible)
            after_layers.append(self.norm(queries))

        # All layers at once: one product with the pixel embedding instead of one per layer.
        mask_embedding: Tensor = self.mask_embedder(torch.stack(after_layers, dim=1))
        mask_logits = torch.einsum("blqd,bdhw->blqhw", mask_embedding, pixel_embedding_BDhw)
        return after_layers[-1], mask_logits.unbind(dim=1)

    def _visible_cells(self, queries: Tensor, coarse_embedding: Tensor) -> Tensor:
        """Return [B, 1, Q, h' * w'] bool: the memory cells that each query may look at."""
        # The comparison ends the gradient. Not under no_grad: the cache of autocast would then
        # hold copies of the embedder's weights that know no gradient (older torch).
        inside = torch.bmm(self.mask_embedder(queries), coarse_embedding) >= 0
        return (inside | ~inside.any(dim=-1, keepdim=True)).unsqueeze(1)


class DecoderLayer(nn.Module):
    """DETR's post-norm decoder layer: self-attention, cross-attention, feed-forward."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width = config.hidden_dim
        self.self_attention = Attention(width, config.heads, config.dropout)
        self.self_attention_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, config.heads, config.dropout)
        self.cross_attention_norm = nn.LayerNorm(width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, config.feedforward_dim),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(config.feedforward_dim, width),
        )
        self.feedforward_norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(config.dropout)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)  # as DETR's

    def forward(
        self,
        queries: Tensor,
        query_position: Tensor,
        memory: Tensor,
        memory_position: Tensor,
        visible: Tensor | None,
    ) -> Tensor:
        """Return the refined [B, Q, D] queries.

        Args:
            queries: [B, Q, D].
            query_position: [Q, D], added to queries and keys, never to values.
            memory: [B, h' * w', D], the image.
            memory_position: [h' * w', D], added to the keys of the cross-attention.
            visible: [B, 1, Q, h' * w'] bool, True where a query may look; None for everywhere.
        """
        placed = queries + query_position
        attended = self.self_attention(placed, placed, queries, None)
        queries = self.self_attention_norm(queries + self.dropout(attended))
        attended = self.cross_attention(
            queries + query_position, memory + memory_position, memory, visible
        )
        queries = self.cross_attention_norm(queries + self.dropout(attended))
        normed: Tensor = self.feedforward_norm(queries + self.dropout(self.feedforward(queries)))
        return normed


class Attention(nn.Module):
    """Multi-head attention whose mask may differ from query to query."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        for part in (self.query, self.key, self.value, self.output):
            nn.init.zeros_(part.bias)

    def forward(
        self, queries: Tensor, keys: Tensor, values: Tensor, visible: Tensor | None
    ) -> Tensor:
        """Return [B, Q, D] from [B, Q, D] queries and [B, K, D] keys and values."""
        attended = F.scaled_dot_product_attention(
            self._split(self.query(queries)),
            self._split(self.key(keys)),
            self._split(self.value(values)),
            attn_mask=visible,
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return merged

    def _split(self, tokens: Tensor) -> Tensor:
        return tokens.view(*tokens.shape[:2], self.heads, -1).transpose(1, 2)


def sine_position(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Return DETR's sine embedding of a grid, [height * width, channels] float32.

    Rows fill the first half of the channels, columns the second. Positions run from 1 / size to
    1 of a full turn, so that the grid of a larger image covers the same range.
    """
    half = channels // 2
    exponents = torch.arange(half, device=device).div(2, rounding_mode="floor") * 2 / half
    wavelengths = 10_000.0**exponents

    def encode(size: int) -> Tensor:
        steps = torch.arange(1, size + 1, dtype=torch.float32, device=device)
        angles = (steps / (size + 1e-6) * 2 * math.pi).unsqueeze(-1) / wavelengths
        return torch.stack((angles[:, 0::2].sin(), angles[:, 1::2].cos()), dim=-1).flatten(1)

    rows = encode(height).unsqueeze(1).expand(-1, width, -1)
    columns = encode(width).unsqueeze(0).expand(height, -1, -1)
    return torch.cat((rows, columns), dim=-1).flatten(0, 1)


def pool_features(mask_logits_BQhw: Tensor, features_BDhw: Tensor) -> Tensor:
    """Return [B, Q, D], the mean of the features under each mask.

    sum_hw sigmoid(m_q) f / sum_hw sigmoid(m_q), our alternative to the decoder query as what
    describes a mask. The gradient flows into the masks as well as the features: masks that are
    trained by the mask loss alone learn to name what they show more slowly. The weights are a
    softmax of log-sigmoids, in float32, which is the same quotient but finite for a mask that is
    empty everywhere.
    """
    with torch.autocast(features_BDhw.device.type, enabled=False):
        weights = F.logsigmoid(mask_logits_BQhw.float()).flatten(2).softmax(dim=-1)
        return torch.bmm(weights, features_BDhw.float().flatten(2).transpose(1, 2))
