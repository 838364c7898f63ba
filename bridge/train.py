"""Train the connector (and LoRA, if asked) between a frozen encoder and a frozen LLM; see `--help`."""

import sys
from collections.abc import Sequence

from bridge.config import BridgeConfig, parse_config
from bridge.data import official
from bridge.data.conversations import read_conversations
from bridge.data.example import Dialogue, Sample
from bridge.data.mixture import Mixture
from vlm.errors import run_command


def load_examples(config: BridgeConfig) -> Mixture:
    """Read the data sets that the config names, in the order of `bridge.config.SETS`."""
    sets: list[Sequence[Sample]] = []
    if config.gqa:
        sets.append(official.gqa(config.gqa, config.gqa_split))
    if config.vqav2:
        sets.append(official.vqav2(config.vqav2, config.vqav2_split))
    if config.conversations:
        sets.append(_conversations(config, config.conversations))
    return Mixture.of(sets)


def _conversations(config: BridgeConfig, source: str) -> list[Dialogue]:
    """The conversations, and a line about those without an image."""
    found = read_conversations(source, config.conversation_images)
    if text_only := sum(not dialogue.images for dialogue in found):
        learns = "are trained as text alone" + ("" if config.lora else ", from which nothing learns without --lora")
        print(f"{source}: {text_only} of {len(found)} conversations have no image and {learns}", file=sys.stderr)
    return found


def main() -> None:
    config = parse_config()
    mixture = load_examples(config)
    from bridge.loop import train  # torch and transformers take seconds: settings and data are judged before

    train(config, mixture)


if __name__ == "__main__":
    run_command(main)
