"""Scoring generated pictures, and what the scores say: prompts, scorers, paired statistics, results files."""
