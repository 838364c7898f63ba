"""Measures of a frozen encoder: k-NN and linear heads, zero-shot, retrieval, segmentation."""
