"""Model families over diffusers and transformers: everything that knows what a UNet, a VAE or a tokenizer is."""
