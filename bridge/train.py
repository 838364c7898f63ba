"""Train the connector (and LoRA, if asked) between a frozen encoder and a frozen LLM; see `--help`."""

import os

from bridge.config import BridgeConfig, parse_config
from bridge.data import conversations, official
from bridge.data.mixture import Mixture
from bridge.same_run import check_folder
from vlm.errors import UserError, run_command


def load_examples(config: BridgeConfig) -> Mixture:
    """Read the data sets that the config names, in the order of `bridge.config.SETS`."""
    sets = []
    if config.gqa:
        sets.append(official.gqa(config.gqa, config.gqa_split))
    if config.vqav2:
        sets.append(official.vqav2(config.vqav2, config.vqav2_split))
    if config.llava and config.llava_images:
        sets.append(conversations.llava(config.llava, config.llava_images))
    return Mixture.of(sets)


def judge_folder(config: BridgeConfig) -> None:
    """Raise a UserError if --out holds another run; of several processes the first one tells."""
    try:
        check_folder(config)
    except UserError:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2) from None
        raise


def main() -> None:
    config = parse_config()
    judge_folder(config)
    mixture = load_examples(config)
    from bridge.loop import train  # torch and transformers take seconds: settings and data are judged before

    train(config, mixture)


if __name__ == "__main__":
    run_command(main)
