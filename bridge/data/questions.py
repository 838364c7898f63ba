"""Scheduled rows -> tokenised conversations -> packed rows."""

from collections.abc import Iterable
from dataclasses import replace

from bridge.config import BridgeConfig
from bridge.data.example import Example, with_sampled_answer
from bridge.data.mixture import Mixture, answer_of
from bridge.data.packing import Conversation, Row, fill_rows, image_slots
from bridge.data.schedule import ScheduledRow
from vlm.errors import UserError
from vlm.llms.prompt import Prompts, briefly


class Questions:
    """The questions of a mixture as token ids.

    constant: ids of the text before the image, the same in every prompt. It is left out of the rows, because its keys
    and values are computed once. With gradient checkpointing it is (): checkpointed layers read no cache.
    """

    def __init__(self, mixture: Mixture, prompts: Prompts, config: BridgeConfig):
        self.mixture, self._prompts, self._config = mixture, prompts, config
        self._image_id = prompts.processor.image_token_id
        self._votes = config.vqav2_answers == "votes"
        ids, _ = prompts.conversation_ids(briefly("Is it?"), "yes")
        first_slot, _ = image_slots(ids, self._image_id)
        self.constant = () if config.gradient_checkpointing else tuple(ids[:first_slot])
        self._frame = len(ids)  # what the template and the image take, and a few tokens more

    def pack(self, scheduled: ScheduledRow) -> list[Row]:
        """Tokenise the questions of one image and pack them into one row; into more if they do not fit one."""
        examples = [self.mixture.examples[index] for index in scheduled.examples]
        if self._votes:
            examples = [with_sampled_answer(example, self._config.seed, scheduled.epoch) for example in examples]
        return self._rows(examples)

    def _rows(self, examples: Iterable[Example]) -> list[Row]:
        conversations = [self._conversation(example) for example in examples]
        return fill_rows(conversations, self._image_id, len(self.constant), self._config.row_tokens)

    def check(self, examples: Iterable[int]) -> None:
        """Tokenise now what might stop the run hours later: texts with control tokens, empty or too long for a row.

        A token has one byte of text at least, so most questions are known to fit without being tokenised.
        """
        room = self._config.row_tokens - self._frame + len(self.constant)
        allowed = self._prompts.allows
        for index in sorted(examples):
            example = self.mixture.examples[index]
            votes = filter(str.strip, example.votes) if self._votes else ()
            for answer in {answer_of(example), *votes}:  # every answer that some epoch may teach
                size = len(example.question.encode()) + len(answer.encode())
                if size > room or not (allowed(example.question) and allowed(answer)):
                    self._rows([replace(example, answer=answer)])

    def _conversation(self, example: Example) -> Conversation:
        where = f"question {example.question_id}"
        try:
            ids, prompt = self._prompts.conversation_ids(briefly(example.question), answer_of(example))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if tuple(ids[: len(self.constant)]) != self.constant:
            raise UserError(f"{where}: the chat template does not open with the same text always")
        return Conversation(example.question_id, tuple(ids), prompt)
