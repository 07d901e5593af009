"""The text encoder is open_clip's text transformer, whatever follows the end of a text."""

from __future__ import annotations

import pytest
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor

from sseg_core.config import TextConfig
from sseg_core.errors import ConfigError
from sseg_core.text.encoder import TextEncoder
from sseg_core.text.tokenizer import Tokenizer

TINY = TextConfig(layers=2, width=32, heads=2, context_length=16)


def encoder_of(config: TextConfig = TINY) -> TextEncoder:
    torch.manual_seed(0)
    encoder = TextEncoder(config)
    with torch.no_grad():  # a fresh model has biases of zero, which would hide a missing one
        for parameter in encoder.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return encoder.eval()


def ids(*texts: str, context_length: int = 16) -> Tensor:
    return torch.from_numpy(Tokenizer(context_length)(texts))


def transplanted(ours: TextEncoder, config: TextConfig) -> TextTransformer:
    """Return open_clip's transformer with the weights of `ours` and the identity on top."""
    names = {
        "token_embedding.weight": "token_embedding.weight",
        "position_embedding": "positional_embedding",
        "final_norm": "ln_final",
        "attention_norm": "ln_1",
        "attention_in.weight": "attn.in_proj_weight",
        "attention_in.bias": "attn.in_proj_bias",
        "attention_out": "attn.out_proj",
        "mlp_norm": "ln_2",
        "mlp_in": "mlp.c_fc",
        "mlp_out": "mlp.c_proj",
        "blocks": "transformer.resblocks",
    }
    state = {"text_projection": torch.eye(config.width)}
    for name, tensor in ours.state_dict().items():
        theirs = name
        for old, new in names.items():
            theirs = theirs.replace(old, new)
        state[theirs] = tensor
    reference = TextTransformer(
        context_length=config.context_length,
        vocab_size=49408,
        width=config.width,
        heads=config.heads,
        layers=config.layers,
        output_dim=config.width,
    )
    reference.load_state_dict(state)
    return reference.eval()


def test_the_output_is_open_clips_after_a_weight_transplant() -> None:
    """At the paper's size (12 layers, 256 wide, context 77) the features agree to 1e-5."""
    config = TextConfig()
    ours = encoder_of(config)
    texts = ["", "dog", "a photo of a minion.", "grass sky " * 20, "word " * 200, "<end_of_text> x"]
    token_ids = ids(*texts, context_length=77)
    with torch.no_grad():
        features = ours(token_ids)
        expected = transplanted(ours, config)(token_ids)
    assert features.shape == (6, 256)
    assert features.std() > 0.1
    assert (features - expected).abs().max() <= 1e-5


def test_gradients_reach_every_parameter() -> None:
    """Every parameter takes part, in training mode, with a text that fills the context."""
    encoder = encoder_of().train()
    encoder(ids("a dog", "word " * 20)).square().sum().backward()
    silent = [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert silent == []


def test_a_feature_depends_on_every_token_before_its_end() -> None:
    """Changing any token between [SOS] and [EOS] changes the feature."""
    encoder = encoder_of()
    token_ids = ids("a small dog runs")
    with torch.no_grad():
        feature = encoder(token_ids)
        for position in range(5):
            changed = token_ids.clone()
            changed[0, position] = 1234
            assert (encoder(changed) - feature).abs().max() > 1e-4


def test_a_feature_depends_on_nothing_after_its_end() -> None:
    """Pad ids, other tokens after [EOS], and longer texts in the batch have no influence."""
    encoder = encoder_of()
    with torch.no_grad():
        alone = encoder(ids("a dog"))
        noisy = ids("a dog")
        noisy[0, 4:] = torch.arange(100, 112)
        beside = encoder(torch.cat([ids("a dog"), noisy, ids("word " * 20)]))
    torch.testing.assert_close(beside[:2], alone.expand(2, -1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [4, 5, 16])
def test_columns_after_the_last_end_can_be_left_out(length: int) -> None:
    """Ids cut right after the last [EOS], or anywhere later, give the same features."""
    encoder = encoder_of()
    token_ids = ids("a dog", "cat")
    with torch.no_grad():
        cut, whole = encoder(token_ids[:, :length]), encoder(token_ids)
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)


def test_nothing_waits_for_the_device() -> None:
    """The encoder asks no tensor for its values, so it runs where tensors have none."""
    encoder = encoder_of().to("meta")
    assert encoder(ids("a dog", "cat").to("meta")).shape == (2, 32)


def test_an_exported_graph_serves_texts_of_any_length() -> None:
    """The graph that was traced with short texts gives long ones the same features."""
    encoder = encoder_of(TextConfig(layers=1, width=16, heads=2, context_length=8))
    example = ids("cat", "dog", context_length=8)
    program = torch.export.export(encoder, (example,))
    longer = ids("a small dog runs", "word " * 20, context_length=8)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(longer), encoder(longer))


def test_a_fresh_encoder_keeps_the_scale_of_its_input() -> None:
    """CLIP's initialisation: the spread of each weight follows the width and the depth."""
    torch.manual_seed(0)
    encoder = TextEncoder(TextConfig(layers=4, width=64, heads=2))
    block = encoder.blocks[0]
    assert encoder.token_embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert encoder.position_embedding.std().item() == pytest.approx(0.01, rel=0.05)
    assert block.attention_in.weight.std().item() == pytest.approx(64**-0.5, rel=0.05)
    assert block.attention_out.weight.std().item() == pytest.approx((64 * 8) ** -0.5, rel=0.05)
    assert block.mlp_in.weight.std().item() == pytest.approx(128**-0.5, rel=0.05)
    assert block.mlp_out.weight.std().item() == pytest.approx((64 * 8) ** -0.5, rel=0.05)
    assert not block.mlp_in.bias.any()


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    """The error names the two options."""
    with pytest.raises(ConfigError, match="does not divide into 3 heads"):
        TextEncoder(TextConfig(width=32, heads=3))
