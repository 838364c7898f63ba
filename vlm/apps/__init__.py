"""What the `vlm` command does with a model: chat, web, export, features, doctor; and answers for lmms-eval."""
