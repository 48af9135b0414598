"""Stable Diffusion in miniature: real components with random weights, saved as the pipeline folders that users have.

8×8×4 latents, a UNet of a few thousand parameters, an exact copy of the file layout. Made in about a second, without a network.
"""

from __future__ import annotations

import json
from collections.abc import Collection
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
SD3_CHANNELS = 16
SD3_TOWERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
T5_WIDTH = 24


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


def tiny_vae(down: int = 2, channels: int = LATENT[0], **scales: float) -> torch.nn.Module:
    """An `AutoencoderKL` that makes pictures `down` (2, 4 or 8) times smaller. `scales`: its `scaling_factor` and `shift_factor`."""
    from diffusers import AutoencoderKL

    levels = {2: 2, 4: 3, 8: 4}[down]
    return AutoencoderKL(
        block_out_channels=(4,) * levels, down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        layers_per_block=1, latent_channels=channels, norm_num_groups=2, sample_size=LATENT[1] * down, mid_block_add_attention=False,
        **scales,
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


def tiny_t5_tokenizer() -> object:
    """A T5Tokenizer that knows a few whole words, and every byte as a letter; it ends a prompt, and does not begin it."""
    from transformers import T5Tokenizer

    letters = sorted({chr(code) for code in range(33, 127)} | {"▁"})
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -20.0), *((f"▁{word}", -1.0) for word in WORDS), *((char, -9.0) for char in letters)]
    return T5Tokenizer(vocab=vocab, extra_ids=0)


def write_pieces(tokenizer: Path) -> None:
    """Puts a `spiece.model` of the tiny T5's size in the place of a folder's tokenizer.json, as published PixArt folders have it."""
    from sentencepiece import SentencePieceTrainer

    size = len(json.loads((tokenizer / "tokenizer.json").read_text())["model"]["vocab"])
    (tokenizer / "tokenizer.json").unlink()
    with (tokenizer / "spiece.model").open("wb") as pieces:
        SentencePieceTrainer.train(
            sentence_iterator=iter([" ".join(WORDS)] * 50), model_writer=pieces, vocab_size=size, hard_vocab_limit=False, pad_id=0,
            eos_id=1, unk_id=2, bos_id=-1, minloglevel=2,
        )  # fmt: skip


def tiny_t5(tokenizer: object, width: int = T5_WIDTH) -> torch.nn.Module:
    """A `T5EncoderModel` of one layer."""
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(vocab_size=len(tokenizer), d_model=width, d_kv=4, d_ff=16, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu")
    )


def tiny_sd3_transformer(*, dual: bool = False) -> torch.nn.Module:
    """An `SD3Transformer2DModel` of two blocks; `dual`: as SD3.5's, with norms of q and k, and a second attention in the first block."""
    from diffusers import SD3Transformer2DModel

    return SD3Transformer2DModel(
        sample_size=LATENT[1], patch_size=2, in_channels=SD3_CHANNELS, out_channels=SD3_CHANNELS, num_layers=2, attention_head_dim=4,
        num_attention_heads=2, joint_attention_dim=T5_WIDTH, caption_projection_dim=8, pooled_projection_dim=8 + 12, pos_embed_max_size=8,
        dual_attention_layers=(0,) if dual else (), qk_norm="rms_norm" if dual else None,
    )  # fmt: skip


def tiny_pixart_transformer(*, told_sizes: bool = False) -> torch.nn.Module:
    """A `PixArtTransformer2DModel` of two blocks that answers a variance too; `told_sizes`: as PixArt-α's of 1024 pixels."""
    from diffusers import PixArtTransformer2DModel

    return PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=6, in_channels=LATENT[0], out_channels=2 * LATENT[0], num_layers=2,
        cross_attention_dim=12, sample_size=LATENT[1], patch_size=2, caption_channels=T5_WIDTH, use_additional_conditions=told_sizes,
    )  # fmt: skip


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


def tiny_sd3(tmp: Path, *, without: Collection[str] = (), dual: bool = False, seed: int = 0) -> Path:
    """Saves a random Stable Diffusion 3 pipeline: CLIP towers of 8 and 12 features, T5 of 24, latents of 16 channels, shift 3.

    `without`: names of text encoders that it has none of; the others are those of the whole one. `dual`: with what 3.5 adds.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    folder = tmp / "-".join(["sd3.5" if dual else "sd3", *(f"no-{name}" for name in sorted(without)), str(seed)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, second, third = tiny_tokenizer(), tiny_tokenizer(), tiny_t5_tokenizer()
        second.pad_token = "!"
        parts = {
            "tokenizer": tokenizer, "text_encoder": tiny_text_encoder(tokenizer, layers=3, projection=8),
            "tokenizer_2": second, "text_encoder_2": tiny_text_encoder(second, 12, layers=4, projection=12),
            "tokenizer_3": third, "text_encoder_3": tiny_t5(third),
            "transformer": tiny_sd3_transformer(dual=dual), "vae": tiny_vae(channels=SD3_CHANNELS, scaling_factor=1.5, shift_factor=0.06),
            "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
        }  # fmt: skip
    for name in without:
        parts[name] = parts[name.replace("text_encoder", "tokenizer")] = None
    StableDiffusion3Pipeline(**parts).save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_pixart(tmp: Path, letter: str = "Sigma", *, told_sizes: bool = False, seed: int = 0) -> Path:
    """Saves a random PixArt pipeline, `letter` "Alpha" or "Sigma": T5 of 24 features, PixArt's own table of noise."""
    import diffusers

    folder = tmp / f"pixart-{letter.lower()}{'-told' if told_sizes else ''}-{seed}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = tiny_t5_tokenizer()
        pipeline = getattr(diffusers, f"PixArt{letter}Pipeline")(
            tokenizer=tokenizer, text_encoder=tiny_t5(tokenizer), vae=tiny_vae(),
            transformer=tiny_pixart_transformer(told_sizes=told_sizes),
            scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear"),
        )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def tiny_controlnet(pipeline: Path, folder: Path, *, seed: int = 0, **changes: object) -> Path:
    """Saves a random ControlNet that goes beside a tiny pipeline's UNet; the layers that begin at zero are random too."""
    from diffusers import ControlNetModel, UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = dict(UNet2DConditionModel.load_config(pipeline / "unet")) | {"conditioning_embedding_out_channels": (4, 8), **changes}
        network = ControlNetModel.from_config(config)
        for weight in network.parameters():
            if not weight.any():
                torch.nn.init.normal_(weight, std=0.2)
    network.save_pretrained(folder)
    return folder
