"""Benchmarks: their questions, the answers that a VLM generates, and the files with its predictions."""
