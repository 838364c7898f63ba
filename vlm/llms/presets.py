"""Language models that have a short name."""

PRESETS = {
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "llama": "meta-llama/Llama-3.2-1B-Instruct",
    "qwen": "Qwen/Qwen2.5-1.5B-Instruct",
}
