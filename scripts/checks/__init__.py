"""Checks of official downloads: what they consist of, reading a folder of them, unpacking, decoding."""
