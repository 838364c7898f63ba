"""Stage 1: image-caption shards to an encoder."""
