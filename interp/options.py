"""The options that commands have in common, each declared once."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from interp.errors import UserError
from interp.formats import FormatName
from interp.models.checkpoints import Loading, Quantization
from interp.models.embedded import EMBEDDED_NAME
from interp.models.prompts import REPLY_TOKENS, LevelsRead, Prompting
from interp.models.templates import DATE, refuse_no_day
from interp.plain import plain_json
from interp.run.processes import launched

T = TypeVar("T")
MACHINE_ONLY = ("out", "check", "device", "device_map", "batch_tokens", "trust_remote_code", "dry_run")
"""Options that fit a run to a machine and may change while it is continued."""


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """Options with the same meaning in every command; those that compare take several checkpoints and data sets."""

    ckpt: str | tuple[str, ...] = EMBEDDED_NAME
    data: str | tuple[str, ...] = "facts"
    shots: int | None = None
    """Worked examples in the prompt; by default what the checkpoint's preset says, mostly none."""
    template: Literal["chat", "plain"] = "chat"
    """chat: the checkpoint's own chat template; plain: for base models without one."""
    template_args: tuple[str, ...] = ()
    """Arguments of the chat template, such as enable_thinking=false."""
    date: str = DATE
    """The day, YYYY-MM-DD, that chat templates which write today's date are given: no clock enters a prompt."""
    levels: LevelsRead = "whole"
    """whole: the confidence is read from whole levels with their ends. token: from the first token on which the levels
    part, as in the paper; refused where one token is not enough to tell all of them apart."""
    reply_tokens: int = REPLY_TOKENS
    """With --free, a reply is cut off after so many tokens; a model that thinks aloud needs hundreds or thousands."""
    seed: int = 0
    """Decides the order of the questions and everything else that is drawn by chance."""
    out: Path | None = None
    """The run's directory; by default results/COMMAND. An unfinished run there is continued."""
    device: str = "auto"
    """cuda, mps or cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 wherever weights and run fit the device, else bfloat16."""
    batch_tokens: int = 2048
    """The most tokens that a batch holds; less needs less memory."""
    device_map: Literal["none", "auto"] = "none"
    """auto: a model that does not fit on one device is spread over all GPUs, then memory, then disk."""
    quantization: Quantization = "none"
    """4bit: weights are quantised (NF4) by bitsandbytes when they are loaded, and every number says so."""
    check: Literal["short", "long"] = "short"
    """How long the texts are on which the engine is compared with the model at the start: 512 tokens, or long, more
    than the model's widest sliding window."""
    trust_remote_code: bool = False
    """Run the code that a checkpoint brings along. Read it first."""
    dry_run: bool = False
    """Measure the first questions only, and say the time, memory and disk that the whole run takes; what was measured
    is kept, and the same command without this option goes on from there."""

    def __post_init__(self) -> None:
        at_least(1, "batch_tokens", self.batch_tokens)
        at_least(0, "seed", self.seed)
        at_least(1, "reply_tokens", self.reply_tokens)
        refuse_no_day(self.date)
        if self.shots is not None:
            at_least(0, "shots", self.shots)

    @property
    def identity(self) -> dict[str, object]:
        """The options that decide what is measured: those that may not change while a run is continued."""
        return {name: value for name, value in asdict(self).items() if name not in MACHINE_ONLY}

    @property
    def loading(self) -> Loading:
        """How checkpoints are loaded, by the process that this one is."""
        processes = launched(self.device)
        if processes.count > 1 and self.device_map == "auto":
            raise UserError("--device-map auto spreads one model over all devices; run it in one process")
        device = processes.device(self.device)
        return Loading(
            device,
            self.dtype,
            device_map=self.device_map,
            quantization=self.quantization,
            remote_code=self.trust_remote_code,
        )

    @property
    def prompting(self) -> Prompting:
        """How prompts are made and replies are read."""
        return Prompting(self.template, self.template_arguments, self.date, self.levels, self.reply_tokens)

    @property
    def template_arguments(self) -> dict[str, object]:
        """`template_args` as the chat template takes them."""
        return template_arguments(self.template_args)


OURS = (
    "self",
    "conversation",
    "messages",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
    "strftime_now",
)
"""Arguments of a chat template that are no option: the program itself decides them."""


def template_arguments(given: Sequence[str]) -> dict[str, object]:
    """The values by name of arguments name=value; what is JSON is read as such. Errors: UserError."""
    pairs = {}
    for argument in given:
        name, equals, value = argument.partition("=")
        if not equals or not name.isidentifier():
            raise UserError(f"--template-args {argument}: write name=value, such as enable_thinking=false")
        if name in OURS:
            raise UserError(f"--template-args {argument}: {name} is not the user's to say")
        try:
            pairs[name] = plain_json(value)
        except ValueError:
            pairs[name] = value
    return pairs


@dataclass(frozen=True, kw_only=True)
class Options(CommonOptions):
    """Options of a command that asks one checkpoint about one data set in one format."""

    ckpt: str = EMBEDDED_NAME
    """The embedded model, a directory, a .gguf file, a hub id (name@revision), or a directory with a LoRA adapter."""
    data: str = "facts"
    """facts[:train|test|unseen], triviaqa, mmlu, logiqa, sciq, or a JSONL file with `question` and `answers`."""
    n: int = 48
    """How many questions to measure."""
    format: FormatName = "ScoreNumber"
    """How the model states its confidence."""
    shot_sets: int = 1
    """Repeat the measurement with so many sets of examples whose confidences differ."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, "n", self.n)
        refuse_sets_of_nothing(self.shot_sets, self.shots)


def refuse_sets_of_nothing(shot_sets: int, shots: int | None) -> None:
    """Errors: UserError where a run is to be repeated with other examples and has none."""
    at_least(1, "shot_sets", shot_sets)
    if shot_sets > 1 and shots == 0:
        raise UserError("--shot-sets repeats the run with other examples, and --shots 0 has none")


def at_least(least: int, name: str, value: int) -> None:
    """Errors: UserError where an option's value is smaller."""
    if value < least:
        raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


Positional = Annotated[T, tyro.conf.Positional]
