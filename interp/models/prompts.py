"""Turns a question into the tokens that the model reads, each with the span that it belongs to.

`python -m interp.prompts` prints a prompt with its tokens coloured by span. The module uses a tokenizer and its chat
template; it knows nothing of models, probabilities and measures."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from interp.datasets.thoughts import opens_thought
from interp.errors import UserError
from interp.formats import ConfidenceFormat
from interp.models.shots import Shot, asked
from interp.models.templates import DATE, ChatTemplate
from interp.records import Question, Span, Transcript

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Piece = tuple[Span, str]
"""A part of a prompt: its span and its text."""


PROBE = Question("probe", "?", ("x",))
"""A placeholder, rendered to see the text around a question."""
CLOSING = "\nConfidence:"
"""The text between an answer and the confidence's slot."""
REPLY_TOKENS = 64
"""A free reply is cut off after this many tokens."""


@dataclass(frozen=True)
class Wording:
    """One way to put the instruction."""

    text: str
    """The instruction up to the two lines of the reply, with {how} and {scale}; the latter ends its sentence, so that a
    method can add one."""
    choices: str
    """{how} for multiple choice."""
    open: str
    """{how} for open questions."""


WORDINGS = (
    Wording(
        "Answer the question {how}. Then state how confident you are that your answer is right, as {scale}. "
        "Reply in two lines:",
        choices="with the letter of the right choice",
        open="as briefly as you can",
    ),
    Wording(
        "You will be asked a question: give {how}. Beneath it, express your certainty that it is correct as {scale}. "
        "Your whole reply has this form:",
        choices="the correct choice's letter",
        open="the shortest complete answer",
    ),
)
"""The wordings of the instruction, phrased independently; the reply's two lines and the scale's words are the same."""
REPLY_LINES = "\nAnswer: <your answer>\nConfidence: <your confidence>"
"""The form of the reply, which ends the instruction."""


def instruction(confidence: ConfidenceFormat, *, choices: bool, wording: int = 0) -> str:
    """What the model is asked to do: answer, then state its confidence on the format's scale.

    Args:
        confidence: the format.
        choices: whether the questions are multiple choice.
        wording: the index among `WORDINGS`.
    """
    worded = WORDINGS[wording]
    how = worded.choices if choices else worded.open
    return worded.text.format(how=how, scale=confidence.wording) + REPLY_LINES


TemplateName = Literal["chat", "plain"]
LevelsRead = Literal["whole", "token"]


@dataclass(frozen=True)
class Prompting:
    """How prompts are made and replies are read; independent of checkpoint and question."""

    template: TemplateName = "chat"
    """chat: the checkpoint's own chat template; plain: text without turns, for base models."""
    template_args: dict[str, object] = field(default_factory=dict)
    """Arguments of the chat template (enable_thinking=False)."""
    date: str = DATE
    """The day that the chat template takes for today, as YYYY-MM-DD."""
    levels: LevelsRead = "whole"
    """whole: a level together with its end. token: the first token on which the levels differ, as in the paper."""
    reply_tokens: int = REPLY_TOKENS
    """A free reply is cut off after this many tokens."""
    wording: int = 0
    """Which wording of the instruction, an index among `WORDINGS`."""


@dataclass(frozen=True, eq=False)
class Prompter:
    """Renders questions for one tokenizer, confidence format, wording and set of worked examples."""

    tokenizer: "PreTrainedTokenizerBase"
    """A fast tokenizer: spans come from its character offsets."""
    confidence: ConfidenceFormat
    """The format of the confidence."""
    shots: tuple[Shot, ...] = ()
    """Worked examples, each a turn of the user and one of the assistant."""
    choices: bool = False
    """Whether the questions are multiple choice."""
    template: str = "chat"
    """chat: the checkpoint's own chat template; plain: text without turns, for base models."""
    template_args: dict[str, object] = field(default_factory=dict)
    """Arguments of the chat template (enable_thinking=False)."""
    max_length: int | None = None
    """The model's context in tokens; a longer prompt is refused. None: no limit."""
    date: str = DATE
    """The day that the chat template takes for today, as YYYY-MM-DD."""
    wording: int = 0
    """Which wording of the instruction, an index among `WORDINGS`."""

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise UserError(f"{self.tokenizer.name_or_path}: only a slow tokenizer, which has no character offsets")
        if self.template == "chat" and not self.tokenizer.chat_template:
            raise UserError(f"{self.tokenizer.name_or_path}: the tokenizer has no chat template; use --template plain")

    def transcript(
        self,
        question: Question,
        answer: str | None = None,
        *,
        hint: str = "",
        level: str | None = None,
        free: bool = False,
    ) -> Transcript:
        """The prompt of a question.

        Without `answer` it ends at the answer's slot, with `answer` at the confidence's slot, with `level` after the
        confidence:

            Question: ... Answer: Paris Confidence: 9
                                  ^ no answer       ^ answer, no level

        Args:
            question: what is asked.
            answer: the answer that the prompt holds.
            hint: a sentence added to the question's turn.
            level: the confidence that the prompt holds, for reading a whole reply.
            free: leave the label "Answer:" out, so that the model writes its reply from the first word.

        Raises:
            UserError: for an empty answer, a control token among the contents, a prompt longer than `max_length`, or
                contents that the chat template changes.
        """
        pieces = list(self._opening(question, hint, free=free))
        if answer is not None:
            if not answer.strip():
                raise UserError(f"question {question.id!r}: an empty answer has no confidence")
            pieces += [("answer", f" {answer.strip()}"), ("tail", CLOSING)]
        if level is not None:
            pieces.append(("confidence", f" {level}"))
        self._refuse_control_tokens(pieces)
        return self._tokenised(tuple(pieces))

    def speakable(self, question: Question, answer: str) -> bool:
        """Whether the answer has tokens of its own in the prompt; punctuation alone can merge with its line's end."""
        return bool(self.transcript(question, answer).positions("answer"))

    def level_suffixes(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """Token ids that each level adds to a transcript that ends at the confidence's slot.

        The whole text is tokenised. The result is reused for every transcript whose tail has the same tokens.

        Returns:
            One tuple of ids for each level, in the levels' order.

        Raises:
            UserError: where the tokenizer merges a level with the text before it.
        """
        tail = tuple(transcript.ids[i] for i in transcript.positions("tail"))
        if tail not in self._suffixes:  # tokenisers merge across blanks: ids of the level alone may differ
            suffixes = []
            for level in self.confidence.levels:
                ids = tuple(self.tokenizer(f"{transcript.text} {level}", add_special_tokens=False)["input_ids"])
                if ids[: len(transcript.ids)] != transcript.ids or len(ids) == len(transcript.ids):
                    raise UserError(f"the tokenizer merges {CLOSING!r} with the level {level!r}: it cannot be scored")
                suffixes.append(ids[len(transcript.ids) :])
            self._suffixes[tail] = tuple(suffixes)
        return self._suffixes[tail]

    def level_fillers(self, transcript: Transcript) -> tuple[tuple[int, ...], ...]:
        """For each level the single tokens, a blank or a full stop, that may stand between it and the end of its line.

        The whole text is tokenised (Gemma writes "9 \\n"). The result is reused as in `level_suffixes`."""
        tail = tuple(transcript.ids[i] for i in transcript.positions("tail"))
        if tail not in self._fillers:
            levels = zip(self.confidence.levels, self.level_suffixes(transcript), strict=True)
            self._fillers[tail] = tuple(
                self._fillers_after(f"{transcript.text} {level}", (*transcript.ids, *suffix))
                for level, suffix in levels
            )
        return self._fillers[tail]

    def _fillers_after(self, text: str, ids: tuple[int, ...]) -> tuple[int, ...]:
        """The filler tokens that may follow a text with these token ids, each once."""
        fillers = []
        for continuation in (" ", ".", " \n", ".\n"):
            longer = tuple(self.tokenizer(text + continuation, add_special_tokens=False)["input_ids"])
            if longer[: len(ids)] == ids and len(longer) > len(ids):
                token = longer[len(ids)]  # the first added token; one that holds the newline itself is no filler
                if str(self.tokenizer.decode([token])).strip(" ") in ("", "."):
                    fillers.append(token)
        return tuple(dict.fromkeys(fillers))

    @cached_property
    def chat(self) -> ChatTemplate:
        """The checkpoint's chat template."""
        return ChatTemplate(self.tokenizer, self.template_args, self.date)

    @cached_property
    def turn_ends(self) -> tuple[int, ...]:
        """The token ids with which the chat template ends the assistant's turns."""
        names = self.chat.ends if self.template == "chat" else ()
        ids = self.tokenizer.convert_tokens_to_ids(list(names))
        return tuple(sorted(ids)) if isinstance(ids, list) else (ids,)

    @cached_property
    def opens_thought(self) -> bool:
        """Whether the prompt of a free reply ends within a thought."""
        return opens_thought(self.transcript(PROBE, free=True).text)

    @property
    def frame(self) -> str:
        """The rendered prompt around a placeholder question and answer, by which two runs are told apart."""
        return self.transcript(PROBE, "x").text

    @property
    def shared_prefix(self) -> tuple[int, ...]:
        """The token ids with which the prompts of all questions begin: instruction and worked examples.

        Raises:
            UserError: where the tokenizer has no token for a question.
        """
        probe = self.transcript(PROBE)
        if not probe.positions("question"):
            raise UserError(f"{self.tokenizer.name_or_path}: the tokenizer has no token for a question")
        return probe.ids[: probe.positions("question")[0]]

    @cached_property
    def _fillers(self) -> dict[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        return {}

    @cached_property
    def _suffixes(self) -> dict[tuple[int, ...], tuple[tuple[int, ...], ...]]:
        return {}

    def _turns(self, question: Question, hint: str) -> list[tuple[str, tuple[Piece, ...]]]:
        """(role, pieces) of each turn: the instruction, two turns for each worked example, the question."""
        told = instruction(self.confidence, choices=self.choices, wording=self.wording)
        turns: list[tuple[str, tuple[Piece, ...]]] = [("system", (("instruction", told),))]
        for shot in self.shots:
            turns.append(("user", (("shots", shot.question),)))
            turns.append(("assistant", (("shots", f"Answer: {shot.answer}{CLOSING} {shot.level}"),)))
        text = asked(question.text, question.choices, question.context)
        turns.append(("user", (("question", f"{text}\n{hint}" if hint else text),)))
        return turns

    def _opening(self, question: Question, hint: str, *, free: bool) -> tuple[Piece, ...]:
        """Pieces up to the answer's slot, or to where a free reply begins."""
        turns = self._turns(question, hint)
        pieces = self._plain(turns) if self.template == "plain" else self._chat(turns, free=free)
        return pieces if free else (*pieces, ("special", "Answer:"))

    def _plain(self, turns: list[tuple[str, tuple[Piece, ...]]]) -> tuple[Piece, ...]:
        """The pieces of a prompt without turns.

        BOS begins it where the tokenizer adds one. A blank line follows the instruction and each worked example."""
        tokenizer = self.tokenizer
        begins = tokenizer.bos_token_id is not None and tokenizer("x")["input_ids"][:1] == [tokenizer.bos_token_id]
        pieces: list[Piece] = [("special", tokenizer.bos_token)] if begins else []
        for role, content in turns:
            pieces += [*content, ("special", "\n" if role == "user" else "\n\n")]
        return tuple(pieces)

    def _chat(self, turns: list[tuple[str, tuple[Piece, ...]]], *, free: bool) -> tuple[Piece, ...]:
        """The pieces of a prompt in the chat template: its literals alternate with the turns' contents.

        Raises:
            UserError: where the template does not take these turns, or changes their contents.
        """
        roles = tuple(role for role, _ in turns)
        layout = self.chat.generating(roles) if free else self.chat.asking(roles)
        if layout.folded:  # the template takes no system turn: the instruction heads the first turn of the user
            (_, first), (role, second), *rest = turns
            turns = [(role, (*first, ("special", "\n\n"), *second)), *rest]
        pieces: list[Piece] = [("special", layout.literals[0])]
        for (_, content), literal in zip(turns, layout.literals[1:], strict=True):
            pieces += [*content, ("special", literal)]
        messages = [{"role": role, "content": "".join(text for _, text in content)} for role, content in turns]
        if not self.chat.keeps(messages, layout, "".join(text for _, text in pieces)):
            raise UserError(f"the chat template changes what it is given ({messages[-1]['content'][:60]!r})")
        return tuple(pieces)

    def _refuse_control_tokens(self, pieces: Sequence[Piece]) -> None:
        """Refuses control tokens in the contents: they would end a turn or the text, and so change the prompt.

        Raises:
            UserError: where a content holds a control token of the tokenizer.
        """
        for text in (text for span, text in pieces if span != "special"):
            if control := next((token for token in self.chat.control_tokens if token in text), None):
                raise UserError(f"the prompt holds {control!r}, which is a control token of this model: {text[:60]!r}")

    def _tokenised(self, pieces: tuple[Piece, ...]) -> Transcript:
        """The transcript of these pieces, tokenised as one text.

        Raises:
            UserError: where it is longer than `max_length`.
        """
        text = "".join(part for _, part in pieces)
        owner = [span for span, part in pieces for _ in part]  # the span of each character
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = encoded["input_ids"], encoded["offset_mapping"]
        if self.max_length and len(ids) > self.max_length:
            raise UserError(f"a prompt has {len(ids)} tokens, the model reads {self.max_length}: {text[-80:]!r}")
        # A token belongs to the span of its last character: the later one where it straddles two. Tokens without
        # characters of their own (a sentencepiece blank at the start) go with the character that follows.
        spans = tuple(owner[end - 1] if end > start else owner[min(end, len(owner) - 1)] for start, end in offsets)
        return Transcript(text, tuple(ids), spans, tuple(text[start:end] for start, end in offsets))
