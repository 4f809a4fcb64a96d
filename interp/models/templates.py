"""What a chat template writes around the contents of a conversation, found by rendering marks in their place.

The answer's slot is what stands before the mark of the last turn, and a turn's end what follows a mark. The prompt that
a template offers for generation may be another text: it may open a thought, or lack a blank or a channel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from interp.errors import UserError
from interp.models.thoughts import THOUGHTS, opens_thought
from interp.plain import HALF, reason
from interp.run.runs import Record

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Roles = tuple[str, ...]
Messages = list[dict[str, str]]
DATE = "2025-01-01"
"""The day that templates take for today, whatever day it is: a prompt must not change overnight."""
UNPADDED = ("d", "m", "H", "I", "M", "S")
DIRECTIVES = (*(f"%-{letter}" for letter in UNPADDED), *(f"%{letter}" for letter in "aAbBcdDeFGHIjmMpRSTuUVwWxXyYzZ%"))
"""What a template may ask of the date, in the order in which it is filled in."""


@dataclass(frozen=True)
class Ending:
    """How a conversation goes on after the last question, when it is rendered with marks."""

    roles: Roles
    """The turns after it."""
    generation: bool
    """With the prompt for the assistant's next turn."""


LAST, EARLIER = Ending(("assistant",), False), Ending(("assistant", "user"), True)
GENERATION = Ending((), True)


@dataclass(frozen=True)
class Layout:
    """What a template writes around the contents of a conversation whose next turn is the assistant's."""

    literals: tuple[str, ...]
    """What stands before each turn's content, then what stands between the last content and what the model writes."""
    folded: bool
    """It takes no system turn: the instruction belongs into the user's first turn."""
    ending: Ending
    """How it was found."""


@dataclass(frozen=True, eq=False)
class ChatTemplate:
    """The chat template of one tokenizer with its arguments."""

    tokenizer: "PreTrainedTokenizerBase"
    """Has a chat template."""
    arguments: dict[str, object] = field(default_factory=dict)
    """The user's arguments of the template (enable_thinking=False)."""
    date: str = DATE
    """The day that the template takes for today, as YYYY-MM-DD."""

    def asking(self, roles: Roles) -> Layout:
        """The layout up to the answer's slot, which is what stands before the content of an assistant's last turn.

        Errors: UserError where the prompt for generation opens a thought that such a turn lacks: the model expects to
        think there, and would take the answer for a thought."""
        return self._once(roles, LAST, lambda: self._slot(roles))

    def generating(self, roles: Roles) -> Layout:
        """The layout up to where the model writes its whole reply, thoughts included."""
        return self._once(roles, GENERATION, lambda: self._first(roles, GENERATION))

    def keeps(self, messages: Messages, layout: Layout, text: str) -> bool:
        """`text` is what the template makes of these contents: it neither trims nor changes them."""
        marks = _marks(len(layout.ending.roles))
        rest = [{"role": role, "content": mark} for role, mark in zip(layout.ending.roles, marks, strict=True)]
        rendered = self.rendered([*messages, *rest], generation=layout.ending.generation)
        return rendered == text if not marks else rendered.startswith(text + marks[0])

    def rendered(self, messages: Messages, *, generation: bool) -> str:
        """The conversation as text. generation: with the prompt for the assistant's next turn.

        Errors: UserError where the template does not take these turns."""
        day = date.fromisoformat(self.date)
        options: Record = {"date_string": day.strftime("%d %b %Y"), **self.arguments}
        options |= {"tokenize": False, "add_generation_prompt": generation}
        try:
            template = str(self.tokenizer.get_chat_template(options.get("chat_template")))
            if "strftime_now" in template:
                options["chat_template"] = calendar(day) + template
            text = str(self.tokenizer.apply_chat_template(messages, **options))
        except Exception as error:  # a template is a program of the checkpoint's: in its sandbox it may raise anything
            roles = tuple(message["role"] for message in messages)
            raise self._unfit(f"cannot render these turns: {roles} ({reason(error)})") from error
        if HALF.search(text):
            raise self._unfit("writes half of a surrogate pair, which is no character")
        return text

    @cached_property
    def ends(self) -> tuple[str, ...]:
        """The control tokens that end an assistant's turn, the conversation's last and an earlier one; none where other
        text follows it."""
        after = [self._after(("user",), LAST), self._after(("user",), EARLIER)]
        tokens = sorted(self._tokens, key=len, reverse=True)
        ends = [next((token for token in tokens if text.lstrip().startswith(token)), "") for text in after]
        return tuple(sorted({end for end in ends if end}))

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of it, a sentence each."""
        if self._after(("user",), LAST) or not self._after(("user",), EARLIER):
            return ()
        return ("the chat template ends no conversation with the assistant; the answer's slot is an earlier turn's",)

    @cached_property
    def control_tokens(self) -> tuple[str, ...]:
        """The tokenizer's special tokens, those included that have no role by name (Llama 3's turn markers)."""
        added = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        tokens = dict.fromkeys([*self.tokenizer.all_special_tokens, *added])
        return tuple(token for token in tokens if len(token) > 1)

    @property
    def _tokens(self) -> tuple[str, ...]:
        """Control tokens and the other added ones, for a turn's end may be marked as common text; no blanks."""
        added = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if str(token).strip()]
        return (*self.control_tokens, *added)

    def _slot(self, roles: Roles) -> Layout:
        layout, offered = self._first(roles, LAST, EARLIER, GENERATION), self.generating(roles)
        slot, prompt = layout.literals[-1], offered.literals[-1]
        if not any(mark in prompt and mark not in slot for pair in THOUGHTS for mark in pair):
            return layout
        if opens_thought(prompt):
            raise self._unfit(f"opens a thought before the answer ({prompt[-40:]!r}); {self._remedy(roles)}")
        return offered  # it has the model skip its thought

    def _remedy(self, roles: Roles) -> str:
        quiet = ChatTemplate(self.tokenizer, {**self.arguments, "enable_thinking": False}, self.date)
        if opens_thought(quiet.generating(roles).literals[-1]):
            return "it has no argument against that, so use --template plain"
        return "pass --template-args enable_thinking=false, or use --template plain"

    def _first(self, roles: Roles, *endings: Ending) -> Layout:
        """The layout by the first of the endings that the template takes, with a system turn or else without one."""
        errors = []
        for ending in endings:
            for folded in (False, True):
                turns = roles[folded:]
                try:
                    return Layout(self._marked(turns, ending)[: len(turns) + 1], folded, ending)
                except UserError as error:
                    errors.append(error)
        raise errors[-1]

    def _after(self, roles: Roles, ending: Ending) -> str:
        """What follows the assistant's turn after these; nothing where the template does not take them."""
        try:
            return self._marked(roles, ending)[len(roles) + 1]
        except UserError:
            return ""

    def _marked(self, roles: Roles, ending: Ending) -> tuple[str, ...]:
        """What is written before each turn, those of the ending included, and after the last one.

        Found by rendering marks instead of contents, so that no content is ever searched for."""
        roles = (*roles, *ending.roles)
        marks = _marks(len(roles))
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        rest, literals = self.rendered(messages, generation=ending.generation), []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found:
                raise self._unfit(f"cannot render these turns: {roles}")
            literals.append(before)
        return (*literals, rest)

    def _once(self, roles: Roles, ending: Ending, found: Callable[[], Layout]) -> Layout:
        if (roles, ending) not in self._layouts:
            self._layouts[roles, ending] = found()
        return self._layouts[roles, ending]

    @cached_property
    def _layouts(self) -> dict[tuple[Roles, Ending], Layout]:
        return {}

    def _unfit(self, what: str) -> UserError:
        return UserError(f"{self.tokenizer.name_or_path}: the chat template {what}")


def _marks(count: int) -> Sequence[str]:
    return [f"\ue000{chr(0xE100 + i)}\ue001" for i in range(count)]


def calendar(day: date) -> str:
    """A definition of `strftime_now` that gives `day`, to head a template with: transformers gives it the clock."""
    filled = "".join(f"|replace({name!r},{day.strftime(name)!r})" for name in DIRECTIVES)
    # transformers has jinja drop the newline after a block, so that the template's own first line stays a first line
    return "{%- macro strftime_now(format) -%}{{ format" + filled + " }}{%- endmacro %}\n"


def refuse_no_day(text: str) -> None:
    """Errors: UserError where the text is no day, or written in another way than YYYY-MM-DD."""
    try:
        known = date.fromisoformat(text).isoformat() == text
    except ValueError:
        known = False
    if not known:
        raise UserError(f"--date {text}: no day; write it as YYYY-MM-DD, such as {DATE}")
