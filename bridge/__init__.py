"""Stage 2: a frozen encoder and a frozen LLM to a connector."""
