"""Train the connector (and LoRA, if asked) between a frozen encoder and a frozen LLM; see `--help`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from bridge.config import BridgeConfig, parse_config
from bridge.data import training_sets
from bridge.data.conversations import BadRecord, read_conversations
from bridge.data.judging import Part, record_of_report, settled
from bridge.data.mixture import Listed, Mixture
from bridge.same_run import check_folder
from vlm.errors import UserError, run_command, told_once
from vlm.run.steps import committed_steps
from vlm.run.trackers import check_tracker


def load_examples(config: BridgeConfig) -> Mixture:
    """Read the data sets that the config names, in the order of `bridge.config.SETS`, and judge them."""
    sets: list[Sequence[Part]] = []
    if config.gqa:
        sets.append(training_sets.gqa(config.gqa, config.gqa_split))
    if config.vqav2:
        sets.append(training_sets.vqav2(config.vqav2, config.vqav2_split))
    if config.conversations:
        sets.append([_conversations(config, config.conversations)])
    # What an earlier start left out stays out, whatever has been mended since: the order of the rest depends on it.
    goes_on = config.resume != "never" and bool(committed_steps(Path(config.out) / "checkpoints"))
    return settled(sets, config.bad_ratio, Path(config.out) / "quarantine.jsonl", goes_on, config.plan)


def _conversations(config: BridgeConfig, source: str) -> Listed:
    """The conversations that can be used, and a line about those without an image."""
    bad: list[dict] = []

    def report(key: str, file: Path, index: int, problem: BadRecord) -> None:
        bad.append(record_of_report(source, key, file, index, problem))

    try:
        found = read_conversations(source, config.conversation_images, report)
    except UserError as error:
        more = f": {bad[0]['detail']}" if bad else ""
        raise UserError(f"{error}{more}") from None
    if text_only := sum(not dialogue.images for dialogue in found):
        learns = "are trained as text alone" + ("" if config.lora else ", from which nothing learns without --lora")
        print(f"{source}: {text_only} of {len(found)} conversations have no image and {learns}", file=sys.stderr)
    return Listed(found, source, bad)


def main() -> None:
    config = parse_config()
    if config.plan:
        mixture = load_examples(config) if config.gqa or config.vqav2 or config.conversations else None
        from bridge.plan import USUAL, describe

        print(describe(config, mixture, [config.world_size] if config.world_size else USUAL))
        return
    told_once(lambda: check_tracker(config.tracker))
    told_once(lambda: check_folder(config))
    mixture = load_examples(config)
    from bridge.loop import train  # torch and transformers take seconds: settings and data are judged before

    train(config, mixture)


if __name__ == "__main__":
    run_command(main)
