"""Frozen image encoders: our own and released ones, timm's, and the baselines, each opened by its name."""
