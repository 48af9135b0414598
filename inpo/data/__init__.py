"""Preference pairs from Parquet files to latents: reading, checking, cropping, encoding, and the order of training."""
