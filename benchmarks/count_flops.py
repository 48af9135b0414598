"""How many floating-point operations SDXL's and SD1.5's networks take, counted on their architectures without weights or memory.

The figures of docs/sdxl-8-gpus.md. Run with: python benchmarks/count_flops.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

TERA = 1e12
# The public configurations (unet/config.json, vae/config.json) of SDXL base 1.0 and SD1.5.
SDXL = {
    "sample_size": 128, "cross_attention_dim": 2048, "block_out_channels": (320, 640, 1280), "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10), "attention_head_dim": (5, 10, 20), "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256, "projection_class_embeddings_input_dim": 2816,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
}  # fmt: skip
SD15 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
VAE = {
    "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
}  # fmt: skip


def count(call: Callable[[], object]) -> float:
    """Tera-operations of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / TERA


def unet_rows(name: str, config: dict[str, object]) -> None:
    """Prints one image's forward pass, and with backward, without and with gradient checkpointing."""
    unet = UNet2DConditionModel(**config).train()
    side, width = unet.config.sample_size, unet.config.cross_attention_dim
    added = {"text_embeds": torch.randn(1, 1280), "time_ids": torch.randn(1, 6)} if "addition_embed_type" in config else None

    def forward() -> Tensor:
        x_t, text = torch.randn(1, 4, side, side), torch.randn(1, 77, width)
        return unet(x_t, torch.ones(1), text, added_cond_kwargs=added, return_dict=False)[0]

    with torch.no_grad():
        plain = count(forward)
    trained = count(lambda: forward().sum().backward())
    unet.enable_gradient_checkpointing()
    checkpointed = count(lambda: forward().sum().backward())
    size = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    print(f"{name} UNet, {size:.1f} M parameters: forward {plain:.2f}, with backward {trained:.2f}, checkpointed {checkpointed:.2f} TFLOP")


def main() -> None:
    """Prints the figures."""
    with torch.device("meta"):
        unet_rows("SDXL", SDXL)
        unet_rows("SD1.5", SD15)
        vae = AutoencoderKL(**VAE)
        for pixels in (512, 1024):
            with torch.no_grad():
                print(f"VAE encoder at {pixels}: {count(lambda pixels=pixels: vae.encode(torch.randn(1, 3, pixels, pixels))):.2f} TFLOP")


if __name__ == "__main__":
    main()
