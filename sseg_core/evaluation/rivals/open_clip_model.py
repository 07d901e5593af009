"""CLIP models of open_clip: how they are named, where their weights are, what their tokens say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sseg_core.checkpoint import load_tensors, read_tensors
from sseg_core.data.fetch.hub_files import fetch_file
from sseg_core.errors import ArtifactError, ConfigError, did_you_mean

DEFAULT_WEIGHTS = "openai"
"""The weights of Radford et al. (2021), as in S-Seg App. A.3."""

TokenKind = Literal["value", "maskclip", "output"]
"""What describes a patch, see `OpenClip.tokens`."""

_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_PLAIN_VISION = {
    "image_size", "patch_size", "width", "layers", "head_width", "mlp_ratio", "ls_init_value",
}  # fmt: skip
_PLAIN_TEXT = {"context_length", "vocab_size", "width", "heads", "layers"}
_NOT_WEIGHTS = {"input_resolution", "context_length", "vocab_size"}  # in OpenAI's own files


class OpenClip(nn.Module):
    """A CLIP with a Vision Transformer, for images of any size.

    Attributes:
        patch_size: pixels of a patch's side.
        image_size: the side of the images that it learned from.
        context_length: tokens in a text.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, model: Any, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> None:
        """Wrap an `open_clip.CLIP`.

        Args:
            model: its image half an `open_clip` VisionTransformer.
            mean: of each colour in [0, 1], to which images are normalised.
            std: likewise.
        """
        super().__init__()
        self._model = model.eval()
        self.patch_size = int(model.visual.patch_size[0])
        self.image_size = int(model.visual.image_size[0])
        self.context_length = int(model.context_length)
        self.register_buffer("mean", torch.tensor(mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(3, 1, 1))

    @property
    def logit_scale(self) -> float:
        """The learned factor of the cosine similarities."""
        return float(self._model.logit_scale.detach().exp())

    def text_tensors(self) -> dict[str, Tensor]:
        """Return the weights of the text half."""
        tensors: dict[str, Tensor] = self._model.state_dict()
        return {name: t for name, t in tensors.items() if not name.startswith("visual.")}

    def encode_text(self, token_ids: Tensor) -> Tensor:
        """Return [n, D] features of [n, L] token ids, not normalised.

        L may be less than `context_length`: no token sees those behind it, so that the padding
        behind the longest text need not be computed. Names are short; it would be most of it.
        """
        model, L = self._model, token_ids.shape[1]
        tokens = model.token_embedding(token_ids) + model.positional_embedding[:L]
        tokens = model.ln_final(model.transformer(tokens, attn_mask=model.attn_mask[:L, :L]))
        ends = token_ids.argmax(dim=1)  # the end of the text has the largest id of all
        features: Tensor = tokens[torch.arange(len(ends)), ends] @ model.text_projection
        return features

    def encode_image(self, images: Tensor) -> Tensor:
        """Return [B, D] features of [B, 3, H, W] images normalised by `normalise`."""
        tokens = self._last_block(self._before_last_block(images), "output")
        return self._project(tokens[:, 0])

    def normalise(self, images: Tensor) -> Tensor:
        """Return float RGB images in [0, 1] as the network takes them; 0 is the mean colour."""
        return (images - self.mean) / self.std

    def tokens(self, images: Tensor, kind: TokenKind) -> Tensor:
        """Return [B, gh, gw, D] a feature of each patch in the space of the texts.

        Args:
            images: [B, 3, H, W] normalised; sides that are no multiple of the patch get a border
                of mean colour at the end, so that gh = ceil(H / patch).
            kind: what of the last block goes through the last norm and the projection. `output`:
                its tokens, as it is. `value`: the value embedding of each token through the output
                projection of the attention, as if it attended to itself alone, and nothing else.
                `maskclip`: the value embedding likewise, then the block's residual connections and
                its MLP, as in the code of MaskCLIP (Zhou et al., ECCV 2022).
        """
        H, W = images.shape[2:]
        gh, gw = -(-H // self.patch_size), -(-W // self.patch_size)
        tokens = self._last_block(self._before_last_block(images), kind)
        return self._project(tokens[:, 1:]).reshape(len(images), gh, gw, -1)

    def _before_last_block(self, images: Tensor) -> Tensor:
        """Return [B, 1 + N, width] what goes into the last block."""
        visual, patch = self._model.visual, self.patch_size
        images = F.pad(images, (0, -images.shape[3] % patch, 0, -images.shape[2] % patch))
        grid_BDhw = visual.conv1(images)
        patches = grid_BDhw.flatten(2).transpose(1, 2)
        first = visual.class_embedding.expand(len(images), 1, -1)
        positions = positions_for(visual.positional_embedding, grid_BDhw.shape[2:])
        tokens: Tensor = visual.ln_pre(torch.cat([first, patches], dim=1) + positions)
        for block in visual.transformer.resblocks[:-1]:
            tokens = block(tokens)
        return tokens

    def _last_block(self, tokens: Tensor, kind: TokenKind) -> Tensor:
        block = self._model.visual.transformer.resblocks[-1]
        if kind == "output":
            output: Tensor = block(tokens)
            return output
        attention, width = block.attn, tokens.shape[2]
        values = F.linear(
            block.ln_1(tokens),
            attention.in_proj_weight[2 * width :],
            attention.in_proj_bias[2 * width :],
        )
        values = cast("Tensor", attention.out_proj(values))
        if kind == "maskclip":
            values = tokens + block.ls_1(values)
            values = values + block.ls_2(block.mlp(block.ln_2(values)))
        return values

    def _project(self, tokens: Tensor) -> Tensor:
        projected: Tensor = self._model.visual.ln_post(tokens) @ self._model.visual.proj
        return projected


def positions_for(positions_ND: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the position embeddings of a grid of patches, [1 + gh * gw, D].

    Args:
        positions_ND: [1 + side * side, D], that of the class token first.
        grid: gh, gw; the embeddings are interpolated bicubically to it.
    """
    side = round((len(positions_ND) - 1) ** 0.5)
    if grid == (side, side):
        return positions_ND
    square_1Dss = positions_ND[1:].T.reshape(1, -1, side, side)
    resized = F.interpolate(square_1Dss, grid, mode="bicubic", align_corners=False)
    return torch.cat([positions_ND[:1], resized[0].flatten(1).T])


@dataclass(frozen=True)
class ClipName:
    """Which CLIP is meant, checked to exist.

    Attributes:
        architecture: of open_clip, such as `ViT-B-16`.
        weights: the tag of open_clip's weights, such as `openai`.
    """

    architecture: str
    weights: str

    @classmethod
    def parse(cls, text: str) -> ClipName:
        """Return the CLIP of `ARCH` or `ARCH:WEIGHTS`.

        Raises:
            ConfigError: open_clip is not installed or does not know it, or it is of another build.
        """
        open_clip = _open_clip()
        architecture, _, weights = text.partition(":")
        known = {
            name: open_clip.list_pretrained_tags_by_model(name)
            for name in open_clip.list_models()
            if _is_plain(_config(name))
        }
        tags = known.get(architecture)
        if not tags:
            raise ConfigError(
                f"{architecture!r} is no CLIP of open_clip with a plain Vision Transformer.",
                did_you_mean(architecture, [name for name, tags in known.items() if tags]),
            )
        if weights and weights not in tags:
            raise ConfigError(
                f"open_clip knows no weights {weights!r} of {architecture}.",
                did_you_mean(weights, tags),
            )
        if not weights and DEFAULT_WEIGHTS not in tags:
            raise ConfigError(
                f"There are no {DEFAULT_WEIGHTS} weights of {architecture}.",
                f"Name others, such as {architecture}:{tags[0]}.",
            )
        return cls(architecture, weights or DEFAULT_WEIGHTS)

    def __str__(self) -> str:
        default = self.weights == DEFAULT_WEIGHTS
        return self.architecture if default else f"{self.architecture}:{self.weights}"


def open_clip_model(name: ClipName, weights: str | None, device: torch.device) -> OpenClip:
    """Return the CLIP called `name` with its weights.

    Args:
        name: also says how the weights want their images normalised and which activation they
            learned with.
        weights: a local file in the place of open_clip's on the hub.
        device: where it will be used.

    Raises:
        ArtifactError: the weights cannot be had, or are of another model.
    """
    source = _open_clip().get_pretrained_cfg(name.architecture, name.weights)
    path = Path(weights) if weights is not None else _fetch(name, source)
    config = _config(name.architecture)
    # OpenAI's networks learned with another activation than the architecture of the same name.
    config["quick_gelu"] = config.get("quick_gelu", False) or source.get("quick_gelu", False)
    return clip_of(config, path, source["mean"], source["std"]).to(device)


def clip_of(
    config: dict[str, Any],
    path: Path,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> OpenClip:
    """Return the CLIP of an open_clip configuration with the weights in a file.

    Raises:
        ArtifactError: the file is unreadable or of another model; the first wrong tensor is named.
    """
    tensors = {name: t for name, t in read_tensors(path).items() if name not in _NOT_WEIGHTS}
    with torch.random.fork_rng(devices=[]):
        model = _open_clip().CLIP(**config)
    load_tensors(model, tensors, source=str(path))
    return OpenClip(model, mean, std)


def _fetch(name: ClipName, source: dict[str, Any]) -> Path:
    repository, _, file = source["hf_hub"].rpartition("/")
    try:
        return fetch_file(repository, (file,) if file else _FILES)
    except ArtifactError as error:
        raise ArtifactError(
            error.message,
            f"With a connection, run: hf download {repository}. Or give a file of {name} with "
            "--set weights=FILE.",
        ) from error


def _config(architecture: str) -> dict[str, Any]:
    config: dict[str, Any] = _open_clip().get_model_config(architecture)
    return config


def _is_plain(config: dict[str, Any]) -> bool:
    """Return whether the image half is a ViT of CLIP's build and the text half has its tokens."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    return (
        config.keys() <= {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
        and vision.keys() <= _PLAIN_VISION
        and text.keys() <= _PLAIN_TEXT
        and isinstance(vision["layers"], int)  # a ResNet has one for each stage
    )


def _open_clip() -> Any:
    try:
        import open_clip  # type: ignore[import-untyped] # it has no types
    except ImportError as error:
        raise ConfigError(
            "CLIP rivals need the open_clip library.", "Run: pip install open_clip_torch"
        ) from error
    return open_clip
