"""Preference alignment for text-to-image diffusion models: DDIM-InPO and the methods it stands among."""
