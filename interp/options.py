"""The options that commands have in common: groups, each option declared once, of which a command is composed."""

import ast
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeVar, runtime_checkable

import tyro

from interp.datasets.grading import MatchName
from interp.datasets.questions import field_paths
from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.checkpoints import Loading, Quantization
from interp.models.prompts import REPLY_TOKENS, WORDINGS, LevelsRead, Prompting
from interp.models.templates import DATE, refuse_no_day
from interp.plain import plain_json
from interp.registry import Registry
from interp.run.dryrun import DryRun
from interp.run.processes import launched

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.residual import Steering

T = TypeVar("T")


def _default_shown(tokens: str) -> str:
    """The default of an option whose choices are looked up late, as that of any other option is shown."""
    return f"(default: {' '.join(ast.literal_eval(tokens))})"


def name_of(registry: Registry[Any], *, several: bool = False) -> Any:
    """The annotation of an option that takes a name of the registry, or several, other packages' among them."""

    def choices() -> Any:
        name: Any = Literal[tuple(registry)]
        return tuple[name, ...] if several else name

    return tyro.conf.arg(constructor_factory=choices, help_behavior_hint=_default_shown)


FormatName = Annotated[str, name_of(FORMATS)]
FormatNames = Annotated[tuple[str, ...], name_of(FORMATS, several=True)]


@dataclass(frozen=True, kw_only=True)
class Common:
    """What every command takes."""

    seed: int = 0
    """Decides the order of the questions and everything else that is drawn by chance."""
    trust_remote_code: bool = False
    """Run the code that a checkpoint brings along. Read it first."""
    fields: tuple[str, ...] = ()
    """Where the rows of --data hold what a question needs, if under other names: question=query
    answers=answer.aliases."""

    def __post_init__(self) -> None:
        at_least(0, "seed", self.seed)
        field_paths(self.fields)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What the model is asked."""

    data: str = "facts"
    """facts[:SPLIT], triviaqa, mmlu, logiqa, sciq, a file (JSON, JSON lines, CSV), or any data set of the
    hub as hf:NAME[:configuration][:split]."""
    n: int = 48
    """How many questions to measure."""
    format: FormatName = "ScoreNumber"
    """How the model states its confidence."""

    def __post_init__(self) -> None:
        at_least(1, "n", self.n)
        refuse_unknown("format", self.format, FORMATS)


@dataclass(frozen=True, kw_only=True)
class Tested:
    """What checkpoints are tested on."""

    data: tuple[str, ...] = ("facts",)
    """One or several of facts[:SPLIT], triviaqa, mmlu, logiqa, sciq, files (JSON, JSON lines, CSV), and
    data sets of the hub as hf:NAME[:configuration][:split]."""
    formats: FormatNames = ("ScoreNumber",)
    """How the model states its confidence."""
    n: int = 200
    """How many questions of each data set."""

    def __post_init__(self) -> None:
        at_least(1, "n", self.n)
        names_each_once("data", self.data)
        names_each_once("formats", self.formats)
        for name in self.formats:
            refuse_unknown("formats", name, FORMATS)


@dataclass(frozen=True)
class PromptSet:
    """What a reading is repeated with."""

    examples: int
    """The number of the set of worked examples."""
    wording: int
    """The number of the wording of the instruction."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How the question is put."""

    shots: int | None = None
    """Worked examples in the prompt; by default what the checkpoint's preset says, mostly none."""
    template: Literal["chat", "plain"] = "chat"
    """chat: the checkpoint's own chat template; plain: for base models without one."""
    template_args: tuple[str, ...] = ()
    """Arguments of the chat template, such as enable_thinking=false."""
    date: str = DATE
    """The day, YYYY-MM-DD, that chat templates which write today's date are given: no clock enters a prompt."""
    levels: LevelsRead = "whole"
    """whole: the confidence is read from whole levels with their ends, and trained on them. token: from the first token
    on which the levels part, as in the paper; refused where one token is not enough to tell all of them apart."""
    shot_sets: int = 1
    """So many sets of worked examples, whose confidences differ: a measurement is repeated with each, and a training
    draws one for each mini-batch."""
    wordings: int = 1
    """So many wordings of the instruction, at most two: a measurement is repeated with each, under every set of worked
    examples. A training takes one."""

    def __post_init__(self) -> None:
        at_least(1, "shot_sets", self.shot_sets)
        at_least(1, "wordings", self.wordings)
        if self.wordings > len(WORDINGS):
            raise UserError(f"--wordings {self.wordings}: there are {len(WORDINGS)} wordings of the instruction")
        refuse_no_day(self.date)
        template_arguments(self.template_args)
        if self.shots is not None:
            at_least(0, "shots", self.shots)

    def prompting(self, reply_tokens: int = REPLY_TOKENS, wording: int = 0) -> Prompting:
        """How prompts are made and replies are read.

        Args:
            reply_tokens: after so many a whole reply is cut off.
            wording: the number of the wording of the instruction.
        """
        arguments = template_arguments(self.template_args)
        return Prompting(self.template, arguments, self.date, self.levels, reply_tokens, wording)

    @property
    def sets(self) -> list[PromptSet]:
        """What every reading is repeated with; the place of each is the number of the set in records."""
        return [PromptSet(examples, wording) for wording in range(self.wordings) for examples in range(self.shot_sets)]

    @property
    def spreads(self) -> dict[str, list[list[int]]]:
        """For each source of error that readings are repeated over, the numbers of the sets of each of its members.

        By the option's name: under "wordings" a list for each wording, its sets of worked examples in it; under
        "shot_sets" a list for each set of worked examples, its wordings in it. One member alone has no spread."""
        numbered = list(enumerate(self.sets))
        groups = {
            "shot_sets": [[i for i, prompt_set in numbered if prompt_set.examples == k] for k in range(self.shot_sets)],
            "wordings": [[i for i, prompt_set in numbered if prompt_set.wording == k] for k in range(self.wordings)],
        }
        return {name: members for name, members in groups.items() if len(members) > 1}

    def shots_of(self, checkpoint_shots: int) -> int:
        """Those that were asked for, else those of the checkpoint's preset."""
        return checkpoint_shots if self.shots is None else self.shots


@dataclass(frozen=True, kw_only=True)
class Replies:
    """How the model answers."""

    free: bool = False
    """Let the model write its whole reply and parse it, instead of filling in slots. Unparsed ones are counted."""
    match: MatchName = "words"
    """When an answer is right. words: the same words, numbers and signs as an accepted one. official: TriviaQA's
    rule."""
    reply_tokens: int = REPLY_TOKENS
    """With --free, a reply is cut off after so many tokens; a model that thinks aloud needs hundreds or thousands."""

    def __post_init__(self) -> None:
        at_least(1, "reply_tokens", self.reply_tokens)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How answers are sampled for wrong ones among them."""

    top_p: float = 0.9
    """The nucleus from which wrong answers are sampled."""
    tries: int = 48
    """Samples drawn for a question before it counts as one without a wrong answer."""
    vetting: Literal["on", "off"] = "on"
    """on: an answer that may be right in other words, or is a part of the question, is no wrong one, and triplets write
    right and wrong answers alike. off: as in the paper, every sampled or branched answer that does not match is wrong,
    in its own words and letter case."""

    def __post_init__(self) -> None:
        at_least(1, "tries", self.tries)
        refuse_no_nucleus(self.top_p)


@dataclass(frozen=True, kw_only=True)
class Added:
    """What is added to the model."""

    steer: Path | None = None
    """A steering.safetensors that interp.steering has written: its vector is added to the residual stream wherever a
    confidence is read, from the first token after the answer on."""
    steer_dose: float = 1.0
    """So many units of it are added; below 0 they are taken away."""

    def __post_init__(self) -> None:
        if self.steer is None and self.steer_dose != 1:
            raise UserError(f"--steer-dose {self.steer_dose:g}: there is no --steer to add")
        if not abs(self.steer_dose) < float("inf"):
            raise UserError(f"--steer-dose {self.steer_dose}: must be a number")

    def refuse_free(self, replies: Replies) -> None:
        """Errors: UserError where the model writes its whole reply, in which nothing is added."""
        if self.steer and replies.free:
            raise UserError("--steer adds to where a confidence is read, and with --free the model writes it; drop one")

    def steering(self, checkpoint: "Checkpoint") -> "Steering | None":
        """The vector in its dose; None without one. Errors: UserError where it is no vector for this checkpoint."""
        if self.steer is None:
            return None
        from interp.models.steering import loaded

        return loaded(self.steer).dosed(self.steer_dose, checkpoint.model, checkpoint.name)

    @property
    def digest(self) -> str | None:
        """Twelve hex digits over the file: another vector is another run. Errors: UserError where it is not there."""
        if self.steer is None:
            return None
        try:
            return hashlib.sha256(self.steer.read_bytes()).hexdigest()[:12]
        except OSError as error:
            raise UserError(f"--steer {self.steer}: {error.strerror}") from None


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where the model runs."""

    device: str = "auto"
    """cuda, mps or cpu."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: float32 wherever weights and run fit the device, else bfloat16. Training takes bfloat16 on cuda, float32
    elsewhere; the adapter's weights stay float32, and float16 is refused."""


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What fits a run to a machine."""

    batch_tokens: int = 2048
    """The most tokens that a batch holds; less needs less memory."""
    device_map: Literal["none", "auto"] = "none"
    """auto: a model that does not fit on one device is spread over all GPUs, then memory, then disk."""
    quantization: Quantization = "none"
    """4bit: weights are quantised (NF4) by bitsandbytes when they are loaded, and every number says so."""
    check: Literal["short", "long"] = "short"
    """How long the texts are on which the engine is compared with the model at the start: 512 tokens, or long, more
    than the model's widest sliding window."""

    def __post_init__(self) -> None:
        at_least(1, "batch_tokens", self.batch_tokens)


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where it goes."""

    out: Path | None = None
    """Where the run is kept, by default in results/COMMAND. An unfinished run there is continued."""
    dry_run: bool = False
    """Measure the first questions only (of a training, three updates), and say the time, memory and disk that the whole
    run takes; what was measured is kept, and the same command without this option goes on from there."""


@runtime_checkable
class Command(Protocol):
    """The options of a command that asks a model."""

    @property
    def computing(self) -> Computing:
        """Where its model runs."""

    @property
    def output(self) -> Output:
        """Where it goes."""


AnyCommand = TypeVar("AnyCommand", bound=Command)


def dry_run_of(options: Command) -> DryRun | None:
    """What fills with what a dry run measures; None where a whole run was asked for.

    Errors: UserError where several processes were launched: each would stop at another question."""
    if not options.output.dry_run:
        return None
    if launched(options.computing.device).count > 1:
        raise UserError("--dry-run measures in one process; several share the time that it says")
    return DryRun()


MACHINE_ONLY = ("out", "check", "device", "device_map", "batch_tokens", "trust_remote_code", "dry_run")
"""Options that fit a run to a machine and may change while it is continued."""


def flat(options: object) -> dict[str, Any]:
    """A command's options by their names on the command line, those of its groups among them."""
    found: dict[str, Any] = {}
    for option in fields(options):  # type: ignore[arg-type]
        value = getattr(options, option.name)
        found |= flat(value) if is_dataclass(value) else {option.name: value}
    return found


def composed(kind: type[T], **given: Any) -> T:
    """A command's options from their names on the command line, those that are not given as they are by default.

    Errors: TypeError for a name that is no option of the command."""
    needed = {option.name: given[option.name] for option in fields(kind) if option.name in given}  # type: ignore[arg-type]
    options, used = _with_given(kind(**needed), given)
    if unknown := given.keys() - used:
        raise TypeError(f"{kind.__name__} has no option {sorted(unknown)[0]!r}")
    return options


def changed(options: T, **given: Any) -> T:
    """The options with some of them changed, by their names on the command line."""
    return _with_given(options, given)[0]


def _with_given(options: T, given: Mapping[str, Any]) -> tuple[T, set[str]]:
    values, used = {}, set()
    for option in fields(options):  # type: ignore[arg-type]
        value = getattr(options, option.name)
        if is_dataclass(value):
            value, inner = _with_given(value, given)
            used |= inner
        elif option.name in given:
            value = given[option.name]
            used.add(option.name)
        values[option.name] = value
    return type(options)(**values), used


def identity_of(options: object, may_change: Sequence[str] = MACHINE_ONLY) -> dict[str, Any]:
    """The options that decide what is measured: those that may not change while a run is continued.

    A steering vector is named by its content, and without one there is nothing to name."""
    values = flat(options)
    if (steer := values.pop("steer", None)) is None:
        values.pop("steer_dose", None)
    else:
        values["steer"] = Added(steer=steer).digest
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if name not in may_change
    }


def loading_of(common: Common, computing: Computing, engine: Engine) -> Loading:
    """How checkpoints are loaded, by the process that this one is."""
    processes = launched(computing.device)
    if processes.count > 1 and engine.device_map == "auto":
        raise UserError("--device-map auto spreads one model over all devices; run it in one process")
    return Loading(
        processes.device(computing.device),
        computing.dtype,
        device_map=engine.device_map,
        quantization=engine.quantization,
        remote_code=common.trust_remote_code,
    )


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


def refuse_sets_of_nothing(shot_sets: int, shots: int | None) -> None:
    """Errors: UserError where a run is to be repeated with other examples and has none."""
    if shot_sets > 1 and shots == 0:
        raise UserError("--shot-sets repeats the run with other examples, and --shots 0 has none")


def refuse_no_nucleus(top_p: float) -> None:
    """Errors: UserError where it is no probability to sample from."""
    if not 0 < top_p <= 1:
        raise UserError(f"--top-p {top_p}: must lie in (0, 1]")


def names_each_once(option: str, names: Sequence[str]) -> None:
    """Errors: UserError where an option that takes several names has none, or one of them twice."""
    if not names or len(set(names)) < len(names):
        raise UserError(f"--{option}: names at least one, and none twice")


def refuse_unknown(what: str, name: str, known: Iterable[str]) -> None:
    """Errors: UserError where a name is none of those that there are."""
    if name not in (there := tuple(known)):
        raise UserError(f"--{what} {name}: none of {', '.join(there)}")


def at_least(least: int, name: str, value: int) -> None:
    """Errors: UserError where an option's value is smaller."""
    if value < least:
        raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {least}")


Positional = Annotated[T, tyro.conf.Positional]
