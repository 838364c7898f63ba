"""Train the connector (and LoRA, where asked) between a frozen encoder and a frozen LLM; see `--help`."""

from bridge.config import BridgeConfig, parse_config
from bridge.data import conversations, official
from bridge.data.example import Example
from vlm.errors import UserError, run_command


def load_examples(config: BridgeConfig) -> list[list[Example]]:
    """The data sets that the config names, each question with its answer; UserError where one has none."""
    sets = []
    if config.gqa:
        sets.append(official.gqa(config.gqa, config.gqa_split))
    if config.vqav2:
        sets.append(official.vqav2(config.vqav2, config.vqav2_split))
    if config.llava:
        sets.append(conversations.llava(config.llava, config.llava_images))
    for examples in sets:
        unanswered = [example.question_id for example in examples if not example.answer]
        if unanswered:
            raise UserError(
                f"{len(unanswered)} training questions have no answer, the first: {unanswered[0]}; "
                "train on a split whose answers are public and whose annotation file is beside the questions"
            )
    return sets


def main() -> None:
    config = parse_config()
    examples = load_examples(config)
    # torch and transformers take seconds to import: settings and data are judged before
    from bridge.loop import train

    train(config, examples)


if __name__ == "__main__":
    run_command(main)
