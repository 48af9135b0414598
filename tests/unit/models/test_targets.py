"""Which layers get adapters, and what is said about a target that names none."""

from __future__ import annotations

import pytest
from torch import nn

from inpo.errors import InputError
from inpo.models.targets import target_layers
from tests.tiny_models import tiny_unet

UNET = tiny_unet()
LAYERS = {name: module for name, module in UNET.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)}


def test_attention_is_every_attentions_four_projections() -> None:
    """q, k, v and the output of self- and cross-attention, and nothing else: four for each attention."""
    found = target_layers(UNET, ["attention"])
    attentions = [name for name, module in UNET.named_modules() if type(module).__name__ == "Attention"]
    assert attentions
    assert found == sorted(f"{name}.{part}" for name in attentions for part in ("to_q", "to_k", "to_v", "to_out.0"))


def test_presets_of_kinds_and_their_union() -> None:
    """`all-linear` and `conv` part the network's layers; named together they are all of them."""
    linear, conv = (set(target_layers(UNET, [preset])) for preset in ("all-linear", "conv"))
    assert linear == {name for name, layer in LAYERS.items() if isinstance(layer, nn.Linear)}
    assert not linear & conv
    assert target_layers(UNET, ["conv", "all-linear"]) == sorted(LAYERS)


@pytest.mark.parametrize(
    ("target", "part"),
    [("to_q", ".to_q"), ("attn2.to_k", ".attn2.to_k"), ("conv_in", "conv_in"), (r"down_blocks\..*\.attn1\.to_v", ".attn1.to_v")],
)
def test_names_and_expressions(target: str, part: str) -> None:
    """The last parts of a name, a whole name, or an expression that the whole name must match."""
    found = target_layers(UNET, [target])
    assert found
    assert all(name.endswith(part) for name in found)
    if part in (".to_q", ".attn2.to_k"):
        assert found == sorted(name for name in LAYERS if name.endswith(part))


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("to_qq", "'to_qq' matches no layer of this network (did you mean 'to_q'?)"),
        ("atention", "(did you mean 'attention'?)"),
        ("atn2.to_k", "(did you mean 'attn2.to_k'?)"),
        ("norm1", "'norm1' is a LayerNorm"),
        ("attention,conv", "'attention,conv' matches no layer of this network (several are a list: [attention, conv])"),
        ("q", "presets"),
        ("to_(q", "matches no layer"),
    ],
)
def test_a_target_that_matches_nothing_is_named_with_its_neighbour(target: str, words: str) -> None:
    """One wrong target among right ones is an error too: silently it would train less than was asked."""
    with pytest.raises(InputError) as caught:
        target_layers(UNET, ["attention", target])
    message = str(caught.value)
    assert message.startswith(f"lora.targets: {target!r}")
    assert words.replace("presets", "give a preset (attention, all-linear, conv)") in message
    assert "\n" not in message
