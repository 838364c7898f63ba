"""Captioned images: shards, tables or folders in, shuffled batches of pixels and token ids out."""
