"""Stable Diffusion in miniature: real components with random weights, saved as the pipeline folders that users have.

8×8×4 latents, a UNet of a few thousand parameters, an exact copy of the file layout. Made in about a second, without a network.
"""

from __future__ import annotations

from pathlib import Path

import torch

WORDS = (
    "a",
    "red",
    "green",
    "blue",
    "big",
    "small",
    "circle",
    "square",
    "triangle",
    "on",
    "left",
    "of",
    "white",
    "black",
    "background",
    "photo",
)
MAX_TOKENS = 24
LATENT = (4, 8, 8)
POOLED = 6


def byte_alphabet() -> list[str]:
    """The 256 printable stand-ins for bytes that byte-level BPE is defined over."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def tiny_tokenizer(max_tokens: int = MAX_TOKENS) -> object:
    """A CLIPTokenizer that knows every byte and a few whole words."""
    from transformers import CLIPTokenizer

    vocab = [*byte_alphabet(), *(f"{char}</w>" for char in byte_alphabet())]
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = [*word[:-1], f"{word[-1]}</w>"]
        for i in range(1, len(pieces)):
            merges.append(("".join(pieces[:i]), pieces[i]))
    merges = list(dict.fromkeys(merges))
    vocab = list(dict.fromkeys([*vocab, *("".join(merge) for merge in merges), "<|startoftext|>", "<|endoftext|>"]))
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(vocab)}, merges=merges, model_max_length=max_tokens)


def tiny_unet(in_channels: int = LATENT[0], cross_attention_dim: int = 8, dropout: float = 0.0, **added: object) -> torch.nn.Module:
    """A `UNet2DConditionModel` of a few thousand parameters: two levels, cross-attention on the first."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=LATENT[1], in_channels=in_channels, out_channels=in_channels, block_out_channels=(4, 8), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim, attention_head_dim=2, norm_num_groups=2, dropout=dropout, **added,
    )  # fmt: skip


def tiny_vae(down: int = 2) -> torch.nn.Module:
    """An `AutoencoderKL` that makes pictures `down` (2 or 4) times smaller."""
    from diffusers import AutoencoderKL

    levels = {2: 2, 4: 3}[down]
    return AutoencoderKL(
        block_out_channels=(4,) * levels, down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1, latent_channels=LATENT[0], norm_num_groups=2, sample_size=LATENT[1] * down, mid_block_add_attention=False,
    )  # fmt: skip


def tiny_sdxl_unet(cross_attention_dim: int = 20) -> torch.nn.Module:
    """The same with SDXL's added conditions: six sizes of 4 features each, and a pooled embedding of 6."""
    return tiny_unet(
        cross_attention_dim=cross_attention_dim, addition_embed_type="text_time", addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=6 * 4 + POOLED,
    )  # fmt: skip


def tiny_text_encoder(
    tokenizer: object, hidden_size: int = 8, *, layers: int = 1, projection: int | None = None, hidden_act: str = "quick_gelu"
) -> torch.nn.Module:
    """A `CLIPTextModel` for this tokenizer, with a `projection` the class that SDXL's second tower is."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=projection or hidden_size, hidden_act=hidden_act,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def scheduler_config(prediction_type: str = "epsilon", zero_terminal_snr: bool = False) -> dict[str, object]:
    """SD1.5's scheduler settings; the zero-terminal-SNR variant is what v-prediction checkpoints with black images use."""
    config: dict[str, object] = {
        "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000, "steps_offset": 1,
        "set_alpha_to_one": False, "clip_sample": False, "prediction_type": prediction_type,
    }  # fmt: skip
    if zero_terminal_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return config


def tiny_sd(tmp: Path, prediction_type: str = "epsilon", *, zero_terminal_snr: bool = False, down: int = 2, seed: int = 0) -> Path:
    """Saves a random Stable Diffusion 1.x pipeline into a folder under `tmp` and returns that folder. Same arguments, same weights."""
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    folder = tmp / f"sd-{prediction_type}{'-ztsnr' if zero_terminal_snr else ''}-{down}x-{seed}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_tokenizer()
        pipeline = StableDiffusionPipeline(
            unet=tiny_unet(), vae=tiny_vae(down), text_encoder=tiny_text_encoder(tokenizer), tokenizer=tokenizer,
            scheduler=DDIMScheduler.from_config(scheduler_config(prediction_type, zero_terminal_snr)),
            safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_sdxl(tmp: Path, prediction_type: str = "epsilon", *, zero_terminal_snr: bool = False, seed: int = 0) -> Path:
    """Saves a random Stable Diffusion XL pipeline: towers of 8 and 12 features. Same arguments, same weights."""
    from diffusers import DDIMScheduler, StableDiffusionXLPipeline

    folder = tmp / f"sdxl-{prediction_type}{'-ztsnr' if zero_terminal_snr else ''}-{seed}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, second = tiny_tokenizer(), tiny_tokenizer()
        # SDXL's second tokenizer pads with "!" where the first one pads with its end token.
        second.pad_token = "!"
        pipeline = StableDiffusionXLPipeline(
            unet=tiny_sdxl_unet(), vae=tiny_vae(), tokenizer=tokenizer, tokenizer_2=second,
            text_encoder=tiny_text_encoder(tokenizer, layers=3), text_encoder_2=tiny_text_encoder(second, 12, layers=4, projection=POOLED),
            scheduler=DDIMScheduler.from_config(scheduler_config(prediction_type, zero_terminal_snr)), add_watermarker=False,
        )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
