"""Frozen language models, loaded from wherever they are, and the prompts that they are given."""
