"""The options of a diagnosis.

They are what the diagnosis, its summary and commands made of diagnoses have in common; nothing is measured here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import tyro

from interp.errors import UserError
from interp.instruments.registry import INSTRUMENTS
from interp.models.embedded import EMBEDDED_NAME
from interp.options import (
    Added,
    Asked,
    Common,
    Computing,
    Engine,
    Output,
    Prompt,
    Replies,
    Sampling,
    name_of,
    refuse_sets_of_nothing,
    refuse_unknown,
)
from interp.pipelines.elicit import WrongAnswers


@cache
def _of_instruments() -> type:
    """The type of a group that holds the options of each instrument, by the instrument's name.

    Raises:
        UserError: for another package's instrument whose name or option cannot be one here.
    """
    shared = (
        Asked,
        Prompt,
        Replies,
        WrongAnswers,
        Sampling,
        Chosen,
        Replacing,
        Added,
        Output,
        Common,
        Computing,
        Engine,
    )
    taken = {option.name for group in (Diagnose, *shared) for option in fields(group)}
    for name, instrument in INSTRUMENTS.items():
        if not name.isidentifier():
            raise UserError(
                f"the instrument {name!r}: its name must be an identifier, such as {name.replace('-', '_')!r}"
            )
        names = {option.name for option in fields(instrument.options)}
        if twice := sorted(names & taken):
            raise UserError(f"the instrument {name!r}: its option {twice[0]!r} is one of another instrument or command")
        taken |= names
    groups = [
        (name, instrument.options, field(default_factory=instrument.options))
        for name, instrument in INSTRUMENTS.items()
    ]
    return make_dataclass("OfInstruments", groups, frozen=True, namespace={"__doc__": "Of single instruments."})


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """Which instruments run."""

    leave_out: Annotated[tuple[str, ...], name_of(INSTRUMENTS, several=True)] = ()
    """Instruments that are not run: rollout where layers hide their attention, attribution where time is short."""
    also: Annotated[tuple[str, ...], name_of(INSTRUMENTS, several=True)] = ()
    """Instruments that run beside the usual ones: flow, probe and steering run only where they are named."""

    def __post_init__(self) -> None:
        for option, names in (("leave-out", self.leave_out), ("also", self.also)):
            for name in names:
                refuse_unknown(option, name, INSTRUMENTS)

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Those of `names` and of the instruments beside them that are run, in the order of the registry.

        Raises:
            UserError: where no instrument is left.
        """
        wanted = {*names, *self.also} - {*self.leave_out}
        kept = [name for name in INSTRUMENTS if name in wanted]
        if not kept:
            raise UserError(f"--leave-out {' '.join(self.leave_out)}: no instrument is left")
        return kept


@dataclass(frozen=True, kw_only=True)
class Replacing:
    """What masking and attribution put in a token's place."""

    filler: str | None = None
    """The token that replaces others as pad does, as the vocabulary writes it, such as <|finetune_right_pad_id|>; by
    default the tokenizer's pad token, and none where it has none or where that means something else as well."""


def instrument_options() -> Any:
    """The options of every instrument at their defaults."""
    return _of_instruments()()


def idle_options(instruments: Sequence[str]) -> tuple[str, ...]:
    """The names of options that decide nothing where these instruments run: which ones do is told by their names.

    Options of the usual instruments are not among them: they stand in the identity of runs of version 0.1."""
    idle = [each for name, each in INSTRUMENTS.items() if each.on_request and name not in instruments]
    return ("also", *(option.name for each in idle for option in fields(each.options)))


OfInstruments = Annotated[Any, tyro.conf.arg(constructor_factory=_of_instruments)]
"""A group of options for each instrument."""


@dataclass(frozen=True, kw_only=True)
class Diagnose:
    """Measure answer-independence."""

    ckpt: str = EMBEDDED_NAME
    """The embedded model, a directory, a .gguf file, a hub id (name@revision), or a directory with a LoRA adapter."""
    cases: Path | None = None
    """An earlier run, of another checkpoint, whose questions with their right and wrong answers are measured: the
    numbers of both are then paired."""
    asked: Asked = field(default_factory=Asked)
    prompt: Prompt = field(default_factory=Prompt)
    replies: Replies = field(default_factory=Replies)
    wrong_answers: WrongAnswers = field(default_factory=WrongAnswers)
    instruments: Chosen = field(default_factory=Chosen)
    replacing: Replacing = field(default_factory=Replacing)
    of_instruments: OfInstruments = field(default_factory=instrument_options)
    added: Added = field(default_factory=Added)
    output: Output = field(default_factory=Output)
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        refuse_sets_of_nothing(self.prompt.shot_sets, self.prompt.shots)
        self.added.refuse_free(self.replies)
