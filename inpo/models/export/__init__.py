"""What was trained, as other programs read it: one-file checkpoints, and LoRA in the layouts that are exchanged."""
