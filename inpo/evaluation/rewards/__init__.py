"""Reward models, one a file. Each implements `inpo.types.Scorer` and writes down everything that changes its numbers."""
