"""Scheduled rows -> tokenised conversations -> packed rows."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from bridge.config import BridgeConfig
from bridge.data.example import Dialogue, Example, Sample, with_sampled_answer
from bridge.data.mixture import Mixture
from bridge.data.packing import Conversation, Row, TooLong, fill_rows, image_runs
from bridge.data.schedule import ScheduledRow
from vlm.distributed import is_main
from vlm.errors import UserError
from vlm.llms.forms import PLACEHOLDER, Talk
from vlm.llms.prompt import Prompts, briefly

CUT = (
    "this language model's template ends an answer with its line: the VLM will stop after the first of them; give "
    "another --llm, such as qwen, or answers of one line"
)
WORTH_A_PASS = 16  # tokens of an opening that has a forward and backward pass of its own in each step


class Questions:
    """The questions of a mixture as token ids.

    opening_ids: of the text before the first image, the same in nearly every prompt. It is left out of the rows that
    begin with it, because its keys and values are computed once. With gradient checkpointing it is (): checkpointed
    layers read no cache. LoRA changes keys and values in every step, which a few tokens are not worth: then it is () as
    well.
    """

    def __init__(self, mixture: Mixture, prompts: Prompts, config: BridgeConfig):
        self.mixture, self._prompts, self._config = mixture, prompts, config
        self.image_id = prompts.processor.image_token_id
        self._votes = config.vqav2_answers == "votes"
        ids, _ = prompts.conversation_ids(briefly("Is it?"), "yes")
        opening = tuple(ids[: ids.index(self.image_id)])
        in_rows = config.gradient_checkpointing or (config.lora > 0 and len(opening) < WORTH_A_PASS)
        self.opening_ids = () if in_rows else opening
        self._frame = len(ids)  # what the template and the image take, and a few tokens more
        one, _ = prompts.conversation_ids("Is it?", "yes")
        two, _ = prompts.conversation_ids("Is it?", "yes", history=[("Is it?", "yes")])
        self._turn = len(two) - len(one)  # what the template takes for another turn, and a few tokens more
        self._grows = two[: len(one)] == one  # else it writes earlier turns in another way, and a row holds both

    def pack(self, share: Sequence[ScheduledRow]) -> list[list[Row]]:
        """Tokenise scheduled rows, all in one call, and pack each into one row; into more if it does not fit one."""
        samples: list[Sample] = []
        for scheduled in share:
            for sample in (self.mixture.examples[index] for index in scheduled.examples):
                if self._votes and isinstance(sample, Example):
                    sample = with_sampled_answer(sample, self._config.seed, scheduled.epoch)
                samples.append(sample)
        groups = iter(self._conversations(samples))
        return [self._fill([next(groups) for _ in scheduled.examples]) for scheduled in share]

    def image_runs(self, row: Row) -> list[int]:
        """Which of its images each run of slots in a row shows."""
        return image_runs(row, self.image_id, self._prompts.slots)

    def _fill(self, groups: Sequence[Sequence[Conversation]]) -> list[Row]:
        return fill_rows(groups, self.opening_ids, self._config.row_tokens)

    def check(self, examples: Iterable[int]) -> dict[int, str]:
        """Tokenise now what might stop the run hours later -> questions that no row may hold, and why.

        A token has one byte of text at least, so most questions are known to fit without being tokenised. Answers of
        several lines are told, if the template ends an answer where its line ends, as smollm2's does.
        """
        ends_lines = self._prompts.tokenizer.decode(self._prompts.end_ids[:1]) == "\n"
        left_out, cut = {}, 0
        for index in sorted(examples):
            sample = self.mixture.examples[index]
            if reason := self._problem(sample):
                left_out[index] = reason
            elif ends_lines and isinstance(sample, Dialogue):
                cut += sum("\n" in answer.strip() for _, answer in sample.turns)
        if cut and is_main():
            print(f"note: {cut:,} answers have several lines, and {CUT}", file=sys.stderr)
        return left_out

    def _problem(self, sample: Sample) -> str:
        """Why a question cannot be trained on, with one of the answers that it may teach; "" if it can."""
        for version in self._versions(sample):
            if reason := next(filter(None, map(self._prompts.refusal, _texts(version))), ""):
                return reason
            if self._surely_fits(version):
                continue
            try:
                self._fill(self._conversations([version]))
            except TooLong:
                return f"takes more than --row-tokens {self._config.row_tokens} allows"
        return ""

    def _versions(self, sample: Sample) -> Iterator[Sample]:
        """A question with every answer that some epoch may teach."""
        if isinstance(sample, Dialogue):
            yield sample
            return
        votes = filter(str.strip, sample.votes) if self._votes else ()
        for answer in sorted({sample.taught_answer, *votes}):
            yield replace(sample, answer=answer)

    def _surely_fits(self, sample: Sample) -> bool:
        room = self._config.row_tokens - self._frame + len(self.opening_ids)
        size = sum(len(text.encode()) for text in _texts(sample))
        if isinstance(sample, Dialogue):
            if sample.system or not (self._grows or len(sample.turns) == 1):
                return False
            size += (len(sample.turns) - 1) * self._turn + max(0, len(sample.images) - 1) * self._prompts.slots
        return size <= room

    def _conversations(self, samples: Sequence[Sample]) -> list[list[Conversation]]:
        """The token ids of each question or conversation, as few sequences as its template allows."""
        try:
            found = self._prompts.lessons([talk_of(sample) for sample in samples])
        except UserError as error:
            if len(samples) > 1:  # which of them is it?
                return [conversations for sample in samples for conversations in self._conversations([sample])]
            raise UserError(f"question {samples[0].question_id}: {error}") from None
        return [
            [Conversation(sample.question_id, ids, learnt[0][0], learnt) for ids, learnt in lessons]
            for sample, lessons in zip(samples, found)
        ]


def talk_of(sample: Sample) -> Talk:
    """An official question stands behind its image; in a conversation each image stands where its text says."""
    if isinstance(sample, Example):
        return Talk(((briefly(sample.question), sample.taught_answer),))
    return Talk(sample.turns, None, system=sample.system)


def _texts(sample: Sample) -> list[str]:
    """What others wrote of a sample, without the placeholders of images."""
    if isinstance(sample, Example):
        return [sample.question, sample.taught_answer]
    texts = [text.replace(PLACEHOLDER, "x") for turn in sample.turns for text in turn]
    return [*texts, sample.system] if sample.system else texts
