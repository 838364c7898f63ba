"""What the `vlm` command does with a trained model: chat, and a check of its folder."""
