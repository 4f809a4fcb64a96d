"""Finds the text that a chat template writes around the contents of a conversation, by rendering marks in their place.

    [user] MARK 1 [end][assistant] MARK 2 [end]
    ------        ----------------        -----
    literal       literal, which ends     follows an assistant's
                  at the answer's slot    turn

The answer's slot is the text before the mark of the last turn; a turn's end is the text after a mark. A template's
prompt for generation may be another text: it may open a thought, or lack a blank or a channel. The module knows nothing
of questions and formats."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from interp.datasets.thoughts import THOUGHTS, opens_thought
from interp.errors import UserError
from interp.plain import HALF, reason
from interp.run.runs import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Roles = tuple[str, ...]
Messages = list[dict[str, str]]
DATE = "2025-01-01"
"""The day that templates take for today, whatever day it is, so that a prompt does not change overnight."""
UNPADDED = ("d", "m", "H", "I", "M", "S")
DIRECTIVES = (*(f"%-{letter}" for letter in UNPADDED), *(f"%{letter}" for letter in "aAbBcdDeFGHIjmMpRSTuUVwWxXyYzZ%"))
"""The directives of `strftime_now` that a template may use, in the order in which they are replaced."""


@dataclass(frozen=True)
class Ending:
    """How a conversation goes on after the last question when it is rendered with marks."""

    roles: Roles
    """The turns after it."""
    generation: bool
    """Whether the prompt for the assistant's next turn follows."""


LAST, EARLIER = Ending(("assistant",), False), Ending(("assistant", "user"), True)
"""The assistant's answer as the conversation's last turn, and as an earlier one. A template may treat the two alike or
not: some take no conversation that ends with the assistant."""
GENERATION = Ending((), True)
"""The template's own prompt for generation, without an answer."""


@dataclass(frozen=True)
class Layout:
    """The text that a template writes around the contents of a conversation whose next turn is the assistant's."""

    literals: tuple[str, ...]
    """The text before each turn's content, then the text between the last content and the model's own."""
    folded: bool
    """Whether the template takes no system turn, so that the instruction goes into the user's first turn."""
    ending: Ending
    """The ending with which it was rendered."""


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """The chat template of one tokenizer with its arguments."""

    tokenizer: "PreTrainedTokenizerBase"
    """A tokenizer with a chat template."""
    arguments: dict[str, object] = field(default_factory=dict)
    """The user's arguments of the template (enable_thinking=False)."""
    date: str = DATE
    """The day that the template takes for today, as YYYY-MM-DD."""

    def asking(self, roles: Roles) -> Layout:
        """The layout up to the answer's slot, which ends where the content of an assistant's last turn begins.

        Args:
            roles: the roles of the turns, the last one the user's.

        Raises:
            UserError: where the template does not take these turns, or its prompt for generation opens a thought that
                an assistant's turn lacks: the model expects to think there, and would take the answer for a thought.
        """
        return self._once(roles, LAST, lambda: self._slot(roles))

    def generating(self, roles: Roles) -> Layout:
        """The layout up to the place where the model writes its whole reply, thoughts included."""
        return self._once(roles, GENERATION, lambda: self._first(roles, GENERATION))

    def keeps(self, messages: Messages, layout: Layout, text: str) -> bool:
        """Whether the template renders these contents as `text`, neither trimmed nor changed.

        Args:
            messages: the turns with their contents.
            layout: the layout from which `text` was made.
            text: the layout's literals and the contents, joined.
        """
        marks = _marks(len(layout.ending.roles))
        ending_turns = [{"role": role, "content": mark} for role, mark in zip(layout.ending.roles, marks, strict=True)]
        rendered = self.rendered([*messages, *ending_turns], generation=layout.ending.generation)
        return rendered == text if not marks else rendered.startswith(text + marks[0])

    def rendered(self, messages: Messages, *, generation: bool) -> str:
        """The conversation as text.

        Args:
            messages: the turns, each with its role and content.
            generation: whether the prompt for the assistant's next turn follows.

        Raises:
            UserError: where the template does not take these turns, or writes half of a surrogate pair.
        """
        day = date.fromisoformat(self.date)
        options: Record = {"date_string": day.strftime("%d %b %Y"), **self.arguments}
        options |= {"tokenize": False, "add_generation_prompt": generation}
        try:
            template = str(self.tokenizer.get_chat_template(options.get("chat_template")))
            if "strftime_now" in template:
                options["chat_template"] = calendar(day) + template
            text = str(self.tokenizer.apply_chat_template(messages, **options))
        except Exception as error:  # a template is a program that runs in a sandbox, where it may raise anything
            roles = tuple(message["role"] for message in messages)
            raise self._unfit(f"cannot render these turns: {roles} ({reason(error)})") from error
        if HALF.search(text):
            raise self._unfit("writes half of a surrogate pair, which is no character")
        return text

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The control tokens that end an assistant's turn, be it the conversation's last or an earlier one.

        A turn that is followed by other text than a control token adds none."""
        after = [self._after(("user",), LAST), self._after(("user",), EARLIER)]
        tokens = sorted(self._tokens, key=len, reverse=True)  # the longest first: one may begin with another
        ends = [next((token for token in tokens if text.lstrip().startswith(token)), "") for text in after]
        return tuple(sorted({end for end in ends if end}))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the user should know about this template, a sentence each."""
        if self._after(("user",), LAST) or not self._after(("user",), EARLIER):
            return ()
        return ("the chat template ends no conversation with the assistant; the answer's slot is an earlier turn's",)

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The tokenizer's special tokens, including those that no named role has (Llama 3's turn markers)."""
        added = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        tokens = dict.fromkeys([*self.tokenizer.all_special_tokens, *added])
        return tuple(token for token in tokens if len(token) > 1)

    @property
    def _tokens(self) -> tuple[str, ...]:
        """Control tokens and all other added ones that are not blank: a turn's end may be an ordinary added token."""
        added = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if str(token).strip()]
        return (*self.control_tokens, *added)

    def _slot(self, roles: Roles) -> Layout:
        """The layout that `asking` describes."""
        layout, offered = self._first(roles, LAST, EARLIER, GENERATION), self.generating(roles)
        slot, prompt = layout.literals[-1], offered.literals[-1]
        # the slot before an assistant's turn serves, unless the prompt for generation has marks of thoughts it lacks
        if not any(mark in prompt and mark not in slot for pair in THOUGHTS for mark in pair):
            return layout
        if opens_thought(prompt):
            raise self._unfit(f"opens a thought before the answer ({prompt[-40:]!r}); {self._remedy(roles)}")
        return offered  # it opens and ends an empty thought, so that the model skips its own

    def _remedy(self, roles: Roles) -> str:
        """What the user can do about a template that opens a thought."""
        quiet = ChatTemplate(self.tokenizer, {**self.arguments, "enable_thinking": False}, self.date)
        if opens_thought(quiet.generating(roles).literals[-1]):
            return "it has no argument against that, so use --template plain"
        return "pass --template-args enable_thinking=false, or use --template plain"

    def _first(self, roles: Roles, *endings: Ending) -> Layout:
        """The layout by the first of the endings that the template takes, with a system turn or else without one."""
        errors = []
        for ending in endings:
            for folded in (False, True):
                turns = roles[folded:]  # folded: without the system turn
                try:
                    return Layout(self._marked(turns, ending)[: len(turns) + 1], folded, ending)
                except UserError as error:
                    errors.append(error)
        raise errors[-1]

    def _after(self, roles: Roles, ending: Ending) -> str:
        """The text that follows an assistant's turn after these roles; empty where the template does not take them."""
        try:
            return self._marked(roles, ending)[len(roles) + 1]
        except UserError:
            return ""

    def _marked(self, roles: Roles, ending: Ending) -> tuple[str, ...]:
        """The text before each turn's content, those of the ending included, and after the last one.

        Marks are rendered instead of contents, so that no content is ever searched for.

        Raises:
            UserError: where the template does not take these turns, or leaves a content out.
        """
        roles = (*roles, *ending.roles)
        marks = _marks(len(roles))
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        rest, literals = self.rendered(messages, generation=ending.generation), []
        for mark in marks:
            before, separator, rest = rest.partition(mark)
            if not separator:
                raise self._unfit(f"cannot render these turns: {roles}")
            literals.append(before)
        return (*literals, rest)

    def _once(self, roles: Roles, ending: Ending, compute: Callable[[], Layout]) -> Layout:
        """The layout for these roles and this ending, computed at the first call."""
        if (roles, ending) not in self._layouts:
            self._layouts[roles, ending] = compute()
        return self._layouts[roles, ending]

    @cached_property
    def _layouts(self) -> dict[tuple[Roles, Ending], Layout]:
        return {}

    def _unfit(self, what: str) -> UserError:
        return UserError(f"{self.tokenizer.name_or_path}: the chat template {what}")


def _marks(count: int) -> Sequence[str]:
    """Distinct texts of the private use area of Unicode, which no template writes by itself."""
    return [f"\ue000{chr(0xE100 + i)}\ue001" for i in range(count)]


def calendar(day: date) -> str:
    """A definition of `strftime_now` that returns `day`, to be put before a template.

    The function that transformers supplies returns the clock's day."""
    filled = "".join(f"|replace({name!r},{day.strftime(name)!r})" for name in DIRECTIVES)
    # transformers has jinja drop the newline after a block, so that the template's own first line stays a first line
    return "{%- macro strftime_now(format) -%}{{ format" + filled + " }}{%- endmacro %}\n"


def refuse_no_day(text: str) -> None:
    """Refuses a text that is no day.

    Raises:
        UserError: where the text is no day, or written in another way than YYYY-MM-DD.
    """
    try:
        valid = date.fromisoformat(text).isoformat() == text
    except ValueError:
        valid = False
    if not valid:
        raise UserError(f"--date {text}: no day; write it as YYYY-MM-DD, such as {DATE}")
