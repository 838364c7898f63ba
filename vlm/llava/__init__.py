"""The assembled model: encoder, connector and LLM as one stock LLaVA, in memory and on disk."""
