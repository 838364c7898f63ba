"""Planned steps -> tensors: tokenised conversations, packed into rows, beside their images' features."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bridge.config import BridgeConfig
from bridge.data.example import Example, with_sampled_answer
from bridge.data.features import Features
from bridge.data.packing import Batch, Conversation, fill_rows, image_slots, make_batch, micro_batches
from bridge.data.schedule import Plan, Step
from vlm.distributed import rank, world_size
from vlm.errors import UserError
from vlm.llava.model import VLM


@dataclass(frozen=True)
class Prepared:
    """This rank's share of one step: micro-batches with their images' features."""

    batches: list[tuple[Batch, torch.Tensor]]
    questions: int
    tokens: int


class Questions:
    """The training questions of a run. `constant` is the text that opens every prompt and is kept out of the rows."""

    def __init__(self, sets: Sequence[Sequence[Example]], vlm: VLM, config: BridgeConfig):
        self._sets, self._vlm, self._config = sets, vlm, config
        self._examples = [example for examples in sets for example in examples]
        self._slot = vlm.model.config.image_token_id
        ids, _ = vlm.conversation_ids("Is it?", "yes")
        start, end = image_slots(ids, self._slot)
        # Checkpointed layers read no cache.
        self.constant = () if config.gradient_checkpointing else tuple(ids[:start])
        self._slots = end - start

    def plan(self) -> list[Step]:
        """Every step of the run; UserError where one of its questions cannot be trained on."""
        plan = Plan(
            self._sets,
            seed=self._config.seed,
            batch_questions=self._config.batch_questions,
            # Not less the constant text where that is in the rows: checkpointing would change which questions meet in
            # a step, and a run may be continued with it. `fill_rows` then splits what does not fit.
            question_tokens=self._config.row_tokens - self._slots,
            shares=self._config.shares(),
        )
        steps = plan.steps(self._config.steps)
        self._check({index for step in steps for row in step for index in row.examples})
        return steps

    def images(self, steps: Iterable[Step]) -> list[Path]:
        """The images of some steps, each once, in order of their first use."""
        return list(dict.fromkeys(self._examples[row.examples[0]].image for step in steps for row in step))

    def ids(self, step: Step) -> list[str]:
        return [self._examples[index].question_id for row in step for index in row.examples]

    def prepare(self, step: Step, features: Features) -> Prepared:
        """This rank's part of a step: every world_size-th image."""
        rows, images, questions = [], [], 0
        for planned in step[rank() :: world_size()]:
            conversations = [self._conversation(self._example(index, planned.epoch)) for index in planned.examples]
            questions += len(conversations)
            packed = fill_rows(conversations, self._slot, len(self.constant), self._config.row_tokens)
            rows += packed
            images += [self._examples[planned.examples[0]].image] * len(packed)
        batches = []
        for indices in micro_batches(rows, self._config.micro_tokens):
            tokens = features([images[index] for index in indices])
            batches.append((make_batch([rows[index] for index in indices]), tokens))
        return Prepared(batches, questions, sum(len(row.ids) for row in rows))

    def _check(self, indices: Iterable[int]) -> None:
        """Tokenise now what might stop the run hours later: text that a prompt may not hold or that may be too long.

        A token has one byte of text at least, so most questions are known to fit without being tokenised.
        """
        fixed = len(self._vlm.conversation_ids("Is it?", "yes")[0])
        room = self._config.row_tokens - fixed + len(self.constant)
        allowed = self._vlm.prompts.allows
        for index in sorted(indices):
            example = self._examples[index]
            votes = example.votes if self._config.vqav2_answers == "votes" else ()
            for answer in {example.answer, *filter(str.strip, votes)}:
                size = len(example.question.encode()) + len(answer.encode())
                if size > room or not (allowed(example.question) and allowed(answer)):
                    conversation = self._conversation(replace(example, answer=answer))
                    fill_rows([conversation], self._slot, len(self.constant), self._config.row_tokens)

    def _example(self, index: int, epoch: int) -> Example:
        example = self._examples[index]
        drawn = self._config.vqav2_answers == "votes"
        return with_sampled_answer(example, self._config.seed, epoch) if drawn else example

    def _conversation(self, example: Example) -> Conversation:
        try:
            ids, prompt = self._vlm.conversation_ids(example.question, example.answer)
        except UserError as error:
            raise UserError(f"question {example.question_id}: {error}") from None
        if tuple(ids[: len(self.constant)]) != self.constant:
            raise UserError(
                f"question {example.question_id}: the chat template does not open with the same text always"
            )
        return Conversation(example.question_id, tuple(ids), prompt)
