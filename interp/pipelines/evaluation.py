"""The options of an evaluation, and the cells of its table.

Both are what the evaluation and its summary have in common; nothing is measured or computed here."""

from dataclasses import dataclass, field
from typing import Annotated

from interp.calibration import rule_named
from interp.methods.base import Asking, Score
from interp.methods.registry import METHODS
from interp.models.embedded import EMBEDDED_NAME
from interp.options import (
    Added,
    Common,
    Computing,
    Engine,
    Output,
    Prompt,
    Replies,
    Tested,
    at_least,
    name_of,
    names_each_once,
    refuse_no_nucleus,
    refuse_sets_of_nothing,
    refuse_unknown,
)

SHARED, APART = " (answers in training)", " (answers not in training)"
"""What is added to the data's name for questions that share an answer with the training data, and for the others."""


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure calibration."""

    ckpt: tuple[str, ...] = (EMBEDDED_NAME,)
    """One or several: the embedded model, directories, .gguf files, hub ids (name@revision), LoRA adapters."""
    methods: Annotated[tuple[str, ...], name_of(METHODS, several=True)] = ("default",)
    """How a confidence is had. given: the answers and confidences in the data, without a model."""
    samples: int = 5
    """Samples for self-consistency."""
    top_p: float = 1.0
    """The nucleus that they are drawn from."""
    rule: str = "10-right"
    """How the calibration error is binned: levels, or bins and kind as in 10-right, 15-left, 10-mass."""
    pool: tuple[str, ...] = ()
    """Names of trainings whose seeds are among the checkpoints as NAME-0, NAME-1, ...: the mean of their differences
    from the first checkpoint is reported as well, with its intervals."""
    trained_on: str | None = None
    """Data that a checkpoint was trained on: questions that share an answer with it are also reported apart."""
    tested: Tested = field(default_factory=Tested)
    prompt: Prompt = field(default_factory=Prompt)
    replies: Replies = field(default_factory=Replies)
    added: Added = field(default_factory=Added)
    output: Output = field(default_factory=Output)
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)
    engine: Engine = field(default_factory=Engine)

    def __post_init__(self) -> None:
        at_least(1, "samples", self.samples)
        rule_named(self.rule)
        refuse_no_nucleus(self.top_p)
        self.added.refuse_free(self.replies)
        refuse_sets_of_nothing(self.prompt.shot_sets, self.prompt.shots)
        names_each_once("ckpt", self.ckpt)
        names_each_once("methods", self.methods)
        for name in self.methods:
            refuse_unknown("methods", name, METHODS)

    @property
    def asks_a_model(self) -> bool:
        """Whether some method needs a checkpoint."""
        return bool(self.rows)

    @property
    def rows(self) -> dict[str, tuple[Asking, Score]]:
        """The table's rows that come from a model, by their key in summary.json."""
        return {
            score.key: (asking, score)
            for name in self.methods
            if (asking := METHODS[name].asking)
            for score in METHODS[name].scores
        }

    @property
    def askings(self) -> dict[str, Asking]:
        """The askings that the rows need, by name, each of them once; one that another needs stands before it."""
        each = ((asking.needs, asking) for asking, _ in self.rows.values())
        return {asking.name: asking for both in each for asking in both if asking}


@dataclass(frozen=True)
class Cell:
    """One checkpoint on one data set in one format, under one set of worked examples and wording of the instruction."""

    checkpoint: str
    """The checkpoint's short name."""
    data: str
    """The data set's short name."""
    format: str
    """The format's name."""
    number: int = 0
    """The number of the set of worked examples and wording, as in `Prompt.sets`."""

    def key(self, asking: str) -> tuple[str, int]:
        """(measure, number of the set) of the records of one asking."""
        return f"{self.checkpoint}|{self.data}|{self.format}|{asking}", self.number
