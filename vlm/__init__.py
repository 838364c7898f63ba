"""LeVLM's library: encoders on disk, their assembly into a stock LLaVA, and chat."""
