"""Scheduled rows -> tokenised conversations -> packed rows."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from bridge.config import BridgeConfig
from bridge.data.example import Dialogue, Example, Sample, with_sampled_answer
from bridge.data.mixture import Mixture, answer_of
from bridge.data.packing import Conversation, Row, TooLong, fill_rows, image_runs
from bridge.data.schedule import ScheduledRow
from vlm.errors import UserError
from vlm.llms.prompt import PLACEHOLDER, Prompts, briefly


class Questions:
    """The questions of a mixture as token ids.

    constant: ids of the text before the image, the same in nearly every prompt. It is left out of the rows that begin
    with it, because its keys and values are computed once. With gradient checkpointing it is (): checkpointed layers
    read no cache.
    """

    def __init__(self, mixture: Mixture, prompts: Prompts, config: BridgeConfig):
        self.mixture, self._prompts, self._config = mixture, prompts, config
        self._image_id = prompts.processor.image_token_id
        self._votes = config.vqav2_answers == "votes"
        ids, _ = prompts.conversation_ids(briefly("Is it?"), "yes")
        self.constant = () if config.gradient_checkpointing else tuple(ids[: ids.index(self._image_id)])
        self._frame = len(ids)  # what the template and the image take, and a few tokens more
        one, _ = prompts.conversation_ids("Is it?", "yes")
        two, _ = prompts.conversation_ids("Is it?", "yes", history=[("Is it?", "yes")])
        self._turn = len(two) - len(one)  # what the template takes for another turn, and a few tokens more
        self._grows = two[: len(one)] == one  # else it writes earlier turns in another way, and a row holds both

    def pack(self, scheduled: ScheduledRow) -> list[Row]:
        """Tokenise questions about the same images and pack them into one row; into more if they do not fit one."""
        samples = [self.mixture.examples[index] for index in scheduled.examples]
        if self._votes:
            samples = [
                with_sampled_answer(sample, self._config.seed, scheduled.epoch)
                if isinstance(sample, Example)
                else sample
                for sample in samples
            ]
        return self._rows(samples)

    def image_runs(self, row: Row) -> list[int]:
        """Which of its images each run of slots in a row shows."""
        return image_runs(row, self._image_id, self._prompts.slots)

    def _rows(self, samples: Iterable[Sample]) -> list[Row]:
        groups = [list(self._conversations(sample)) for sample in samples]
        return fill_rows(groups, self.constant, self._config.row_tokens)

    def check(self, examples: Iterable[int]) -> dict[int, str]:
        """Tokenise now what might stop the run hours later -> questions that no row may hold, and why.

        A token has one byte of text at least, so most questions are known to fit without being tokenised.
        """
        problems = ((index, self._problem(self.mixture.examples[index])) for index in sorted(examples))
        return {index: reason for index, reason in problems if reason}

    def _problem(self, sample: Sample) -> str:
        """Why a question cannot be trained on, with one of the answers that it may teach; "" if it can."""
        for version in self._versions(sample):
            if reason := next(filter(None, map(self._prompts.refusal, _texts(version))), ""):
                return reason
            if self._surely_fits(version):
                continue
            try:
                self._rows([version])
            except TooLong:
                return f"takes more than --row-tokens {self._config.row_tokens} allows"
        return ""

    def _versions(self, sample: Sample) -> Iterator[Sample]:
        """A question with every answer that some epoch may teach."""
        if isinstance(sample, Dialogue):
            yield sample
            return
        votes = filter(str.strip, sample.votes) if self._votes else ()
        for answer in sorted({answer_of(sample), *votes}):
            yield replace(sample, answer=answer)

    def _surely_fits(self, sample: Sample) -> bool:
        room = self._config.row_tokens - self._frame + len(self.constant)
        size = sum(len(text.encode()) for text in _texts(sample))
        if isinstance(sample, Dialogue):
            if sample.system or not (self._grows or len(sample.turns) == 1):
                return False
            size += (len(sample.turns) - 1) * self._turn + max(0, len(sample.images) - 1) * self._prompts.slots
        return size <= room

    def _conversations(self, sample: Sample) -> Iterator[Conversation]:
        """The token ids of a question, or of each answer of a conversation with all that was said before it."""
        turns = ((briefly(sample.question), answer_of(sample)),) if isinstance(sample, Example) else sample.turns
        # An official question stands behind its image; in a conversation each image stands where its text says.
        images, system = (1, "") if isinstance(sample, Example) else (None, sample.system)
        for number, (question, answer) in enumerate(turns):
            try:
                ids, prompt = self._prompts.conversation_ids(question, answer, images, turns[:number], system)
            except UserError as error:
                raise UserError(f"question {sample.question_id}: {error}") from None
            yield Conversation(sample.question_id, tuple(ids), prompt)


def _texts(sample: Sample) -> list[str]:
    """What others wrote of a sample, without the placeholders of images."""
    if isinstance(sample, Example):
        return [sample.question, answer_of(sample)]
    texts = [text.replace(PLACEHOLDER, "x") for turn in sample.turns for text in turn]
    return [*texts, sample.system] if sample.system else texts
