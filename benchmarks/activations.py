"""What a backward pass through SD1.5's and SDXL's real UNets keeps, for one pair under LoRA in bf16, counted without weights or memory.

    python benchmarks/activations.py

The figures of docs/lora.md. Tensors are fake: they have shapes, types and identities, and no numbers. What autograd saves is counted
once a storage, parameters not. Attention is PyTorch's own for the CPU, which keeps no matrix of all tokens by all tokens, as a GPU's
flash attention does not.
"""

from __future__ import annotations

import torch
from step_memory import GIB, RANK, UNETS
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from inpo.models.config import Lora
from inpo.models.lora import attach

PICTURES = 2


def fake_unet(name: str, mode: FakeTensorMode) -> nn.Module:
    """The architecture under adapters, on a CPU that is only said to hold it."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**UNETS[name])
    attach(unet, Lora(rank=RANK), seed=0, stored=torch.bfloat16)
    for module in unet.modules():
        for key, weight in module._parameters.items():
            if weight is not None:
                fake = FakeTensor(mode, weight.detach().to("meta"), torch.device("cpu"))
                module._parameters[key] = nn.Parameter(fake, requires_grad=weight.requires_grad)
    return unet


def kept(name: str, *, checkpointing: bool) -> int:
    """Bytes that the forward pass of winner and loser, at the model's own resolution, leaves for the backward pass."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    unet = fake_unet(name, mode)
    if checkpointing:
        unet.enable_gradient_checkpointing()
    side, width = (int(str(UNETS[name][key])) for key in ("sample_size", "cross_attention_dim"))
    weights = {weight.untyped_storage()._cdata for weight in unet.parameters()}
    # The tensors too: a storage that is freed gives its identity to the next one.
    saved: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with mode, torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        added = {"text_embeds": torch.randn(PICTURES, 1280), "time_ids": torch.randn(PICTURES, 6)}
        x_t, text = torch.randn(PICTURES, 4, side, side), torch.randn(PICTURES, 77, width)
        unet(x_t, torch.ones(PICTURES), text, added_cond_kwargs=added)
    return sum(tensor.untyped_storage().nbytes() for key, tensor in saved.items() if key not in weights)


def main() -> None:
    """A row for each model."""
    print(f"torch {torch.__version__}, LoRA of rank {RANK} on attention, bf16 autocast, one pair at the model's own resolution")
    print(f"{'model':6} {'kept, GiB':>10} {'checkpointed, GiB':>18}")
    for name in UNETS:
        plain, checkpointed = (kept(name, checkpointing=on) / GIB for on in (False, True))
        print(f"{name:6} {plain:10.2f} {checkpointed:18.2f}", flush=True)


if __name__ == "__main__":
    main()
