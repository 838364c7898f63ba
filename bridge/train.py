"""Train the connector (and LoRA, if asked) between a frozen encoder and a frozen LLM; see `--help`."""

from collections.abc import Sequence
from pathlib import Path

from bridge.config import BridgeConfig, parse_config
from bridge.data import conversations, training_sets
from bridge.data.judging import Part, settled
from bridge.data.mixture import Listed, Mixture
from vlm.errors import run_command


def load_examples(config: BridgeConfig) -> Mixture:
    """Read the data sets that the config names, in the order of `bridge.config.SETS`, and judge them."""
    sets: list[Sequence[Part]] = []
    if config.gqa:
        sets.append(training_sets.gqa(config.gqa, config.gqa_split))
    if config.vqav2:
        sets.append(training_sets.vqav2(config.vqav2, config.vqav2_split))
    if config.llava and config.llava_images:
        sets.append([Listed(conversations.llava(config.llava, config.llava_images), config.llava)])
    # What an earlier start left out stays out, whatever has been mended since: the order of the rest depends on it.
    earlier = None if config.resume == "never" else Path(config.out) / "quarantine.jsonl"
    return settled(sets, config.bad_ratio, earlier)


def main() -> None:
    config = parse_config()
    mixture = load_examples(config)
    from bridge.loop import train  # torch and transformers take seconds: settings and data are judged before

    train(config, mixture)


if __name__ == "__main__":
    run_command(main)
