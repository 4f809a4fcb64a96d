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
    shared = (Asked, Prompt, Replies, WrongAnswers, Sampling, LeftOut, Replacing, Output, Common, Computing, Engine)
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
class LeftOut:
    """Which instruments run."""

    leave_out: Annotated[tuple[str, ...], name_of(INSTRUMENTS, several=True)] = ()
    """Instruments that are not run: rollout where layers hide their attention, attribution where time is short."""

    def __post_init__(self) -> None:
        for name in self.leave_out:
            refuse_unknown("leave-out", name, INSTRUMENTS)

    def chosen(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are run.

        Raises:
            UserError: where no instrument is left.
        """
        kept = [name for name in names if name not in self.leave_out]
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
    instruments: LeftOut = field(default_factory=LeftOut)
    replacing: Replacing = field(default_factory=Replacing)
    of_instruments: OfInstruments = field(default_factory=instrument_options)
    output: Output = field(default_factory=Output)
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        refuse_sets_of_nothing(self.prompt.shot_sets, self.prompt.shots)
