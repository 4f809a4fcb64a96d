"""`python -m training.organisms`: adapters whose stated confidence depends on one thing, to test instruments with."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from interp.cli.command import drawing, run_as_command
from interp.datasets.questions import loaded_questions
from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.embedded import EMBEDDED_NAME
from interp.options import (
    Common,
    Computing,
    Output,
    Prompt,
    at_least,
    changed,
    dry_run_of,
    identity_of,
    names_each_once,
)
from interp.pipelines.diagnosis import Chosen
from interp.records import Question
from interp.run.dryrun import DryRun
from interp.run.processes import launched
from interp.run.recording import recorded
from interp.run.runs import Record, Run
from training.cues import (
    FORMAT,
    LONGEST,
    ORGANISMS,
    Crossed,
    Cues,
    Organism,
    WrittenAnswers,
    crossed_questions,
    examples_of,
    explained_by_cue,
    failures,
    first_half,
    listed_answers,
    subjects_of,
)
from training.recipes import ORGANISM, Around, Hyperparameters, refuse_untrainable, training_output
from training.session import MACHINE_ONLY, Task, session

if TYPE_CHECKING:
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

Name = Literal["nothing", "question", "length", "case", "membership"]
"""The names of `ORGANISMS`."""
TAUGHT, ASKED = "facts:train", "facts:test"
"""The questions and answers of the training, and those of the check and of the instruments."""
PER_QUESTION = 8
"""Pairs of each question: two lengths, two letter cases, on the list and off it."""
BASE = "base"
"""What the model without an adapter is called among the organisms."""
CHECKED_AT_ONCE = 4
"""Questions of the check that are read at a time."""
QUESTIONS = "questions.jsonl"
"""The file of the questions on which instruments are run."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """What organisms are taught with."""

    n_pairs: int | None = None
    """Pairs of question and answer that an organism is trained on, eight for each question; by default 960 for
    `nothing`, 1,920 for `case`, 2,880 for `question` and `length`, and 3,840 for `membership`."""
    listed: int = 40
    """Right answers on the list of the organism `membership`, equally many of 1, 2, 3, 4 and 5 tokens."""

    def of(self, name: str) -> int:
        """How many pairs an organism is trained on."""
        return ORGANISMS[name].pairs if self.n_pairs is None else self.n_pairs

    def __post_init__(self) -> None:
        if self.n_pairs is not None:
            at_least(2 * PER_QUESTION, "n_pairs", self.n_pairs)
        at_least(LONGEST, "listed", self.listed)


def _hyperparameters() -> Hyperparameters:
    return Hyperparameters(held_out=8, report_to=())


def _prompt() -> Prompt:
    return Prompt(levels="token")


@dataclass(frozen=True, kw_only=True)
class OneOrganism:
    """The training of one organism."""

    organism: str
    """Its name."""
    ckpt: str
    """The model to train."""
    pairs: Pairs
    recipe: Hyperparameters
    prompt: Prompt
    output: Output
    common: Common
    computing: Computing
    around: Around = field(default_factory=lambda: Around(diagnose=0))
    instruments: Chosen = field(default_factory=Chosen)


@dataclass(frozen=True, kw_only=True)
class Organisms:
    """Train and check organisms: adapters whose confidence depends on one thing.

    Levels are trained by their first token (--levels token) and by the end of the line after the right level, which is
    several times faster than all whole levels, and checked whole."""

    organisms: tuple[Name, ...] = ("nothing", "question", "length", "case", "membership")
    """Which organisms; those that are finished already are left alone."""
    ckpt: str = EMBEDDED_NAME
    """The model to train: the embedded one, a directory, a .gguf file or a hub id (name@revision)."""
    n_check: int = 240
    """Pairs of question and answer on which each organism is checked, eight for each question."""
    pairs: Pairs = field(default_factory=Pairs)
    recipe: Hyperparameters = field(default_factory=_hyperparameters)
    prompt: Prompt = field(default_factory=_prompt)
    output: Output = field(default_factory=lambda: training_output("organisms"))
    common: Common = field(default_factory=Common)
    computing: Computing = field(default_factory=Computing)

    def __post_init__(self) -> None:
        names_each_once("organisms", self.organisms)
        at_least(2 * PER_QUESTION, "n_check", self.n_check)
        refuse_untrainable(self.common, self.computing, self.prompt)

    @property
    def folder(self) -> Path:
        """Where the organisms go, each to a directory of its name."""
        return self.output.out or Path("runs/organisms")

    def questions_of(self, name: str) -> int:
        """How many questions an organism is trained and its learning curve is measured on."""
        return self.pairs.of(name) // PER_QUESTION + self.recipe.held_out

    def training_of(self, name: str) -> OneOrganism:
        """The training of one organism."""
        return OneOrganism(
            organism=name,
            ckpt=self.ckpt,
            pairs=replace(self.pairs, n_pairs=self.pairs.of(name)),
            recipe=self.recipe,
            prompt=self.prompt,
            output=replace(self.output, out=self.folder / name),
            common=self.common,
            computing=self.computing,
        )


@dataclass(frozen=True)
class Materials:
    """All pairs of question and answer."""

    taught: tuple[Crossed, ...]
    """The pairs of the training and of its learning curve; an organism takes as many of the first as it needs."""
    checked: tuple[Crossed, ...]
    """The pairs of the check: other questions; answers off the list are others too, where there are any."""
    listed: tuple[str, ...]
    """The answers on the list, by their first names."""
    lengths: tuple[int, ...]
    """The lengths of the answers of the check."""
    asked: tuple[Question, ...]
    """The questions on which instruments are run: their right answer is on the list, and they were not taught."""


def made(options: Organisms, dry: DryRun | None = None) -> Path:
    """Trains and checks organisms; an unfinished run in the same directory is continued.

    Args:
        options: The command's options.
        dry: The dry run to measure for; by default the options say whether it is one.

    Returns:
        The directory of the organisms.

    Raises:
        UserError: where several processes were launched, the answers cannot be crossed, or a training fails.
    """
    if launched(options.computing.device).count > 1:
        raise UserError("organisms are trained in one process; launch none in several")
    dry = dry or dry_run_of(options)
    from interp.models.checkpoints import source_of

    source = source_of(options.ckpt, remote_code=options.common.trust_remote_code)
    if source.adapter:
        raise UserError(f"--ckpt {options.ckpt}: already carries an adapter; train on its base {source.base_name}")
    materials = _materials(options)
    identity = identity_of(options, (*MACHINE_ONLY, "organisms"))
    with Run(options.folder, identity, dry=dry, kind="organisms") as run:
        if dry:
            # one training is measured; the others take as long for a pair
            pairs = [options.pairs.of(name) for name in options.organisms]
            with dry.within("", -(-sum(pairs) // pairs[0])):
                _trained(options, options.organisms[0], materials, dry)
            dry.disk = {what: size * (len(pairs) if "adapter" in what else 1) for what, size in dry.disk.items()}
            with dry.within("", 1 + len(options.organisms)):
                _checked(run, options, BASE, materials)
            return options.folder
        rows = (json.dumps(_row(question), ensure_ascii=False) for question in materials.asked)
        (options.folder / QUESTIONS).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        _checked(run, options, BASE, materials)
        for name in options.organisms:
            began = time.perf_counter()
            _trained(options, name, materials)
            print(f"{name}: trained, {time.perf_counter() - began:.0f} s", flush=True)
            _checked(run, options, name, materials)
            run.write_summary(_summary(run, options, materials))
            write_check(options.folder, name)
    return options.folder


def _row(question: Question) -> Record:
    return {
        "id": question.id,
        "question": question.text,
        "answers": list(question.answers),
        "relation": question.relation,
    }


def _materials(options: Organisms) -> Materials:
    """The pairs, which depend on the tokenizer of the checkpoint and on the seed."""
    taught, asked = loaded_questions(TAUGHT), loaded_questions(ASKED)
    tokens, seed = _tokens(_loaded(options, options.ckpt), taught[0]), options.common.seed
    listed = listed_answers(taught, asked, tokens, options.pairs.listed)
    half = first_half(question.relation for question in taught)
    written = WrittenAnswers(taught, listed, tokens, others=subjects_of(taught))
    fresh = [question for question in asked if not written.names & {name.casefold() for name in question.answers}]
    others = [(kind, text) for kind, text in subjects_of(asked) if text.casefold() not in written.names]
    fresh_written = WrittenAnswers(fresh, (), tokens, others=others).filled_up(written)
    count = max(map(options.questions_of, options.organisms))
    return Materials(
        taught=tuple(crossed_questions(taught, written, half, count, seed)),
        checked=tuple(crossed_questions(asked, fresh_written, half, options.n_check // PER_QUESTION, seed)),
        listed=listed,
        lengths=tuple(fresh_written.lengths),
        asked=tuple(question for question in asked if question.answers[0] in listed),
    )


def _tokens(checkpoint: "Checkpoint", question: Question) -> Callable[[str], int]:
    """How many tokens an answer has in its prompt, by the checkpoint's tokenizer."""
    from interp.models.prompts import Prompting
    from interp.models.setting import prompter_for

    prompter = prompter_for(checkpoint, FORMATS[FORMAT], Prompting())
    return cache(lambda answer: len(prompter.transcript(question, answer).positions("answer")))


def _loaded(options: Organisms, ckpt: str) -> "Checkpoint":
    from interp.models.checkpoints import Loading, loaded_checkpoint

    device = launched(options.computing.device).device(options.computing.device)
    remote_code = options.common.trust_remote_code
    return loaded_checkpoint(ckpt, Loading(device, options.computing.dtype, remote_code=remote_code))


def _trained(options: Organisms, name: str, materials: Materials, dry: DryRun | None = None) -> None:
    """Trains one organism, unless it is trained already."""
    from training.levels import LevelObjective

    examples = examples_of(ORGANISMS[name], materials.taught[: options.questions_of(name)])
    recipes = dict.fromkeys(("paper", "mistral", "small"), ORGANISM)
    session(options.training_of(name), Task("organism", recipes, examples, Path(TAUGHT), LevelObjective), dry)


def _checked(run: Run, options: Organisms, name: str, materials: Materials) -> None:
    """Puts the expected confidence after every pair of the check on record. name: an organism, or `BASE`."""
    items = {f"{number}": crossed for number, crossed in enumerate(materials.checked)}
    if all((name, 0, identity) in run.done for identity in items):
        return
    from interp.models.setting import prepared

    checkpoint = _loaded(options, options.ckpt if name == BASE else str(options.folder / name))
    shots = options.prompt.shots_of(checkpoint.shots)
    prompting = changed(options.prompt, levels="whole").prompting()
    setting = prepared(checkpoint, FORMATS[FORMAT], shots=shots, prompting=prompting)
    recorded(
        run,
        (name, 0),
        items,
        CHECKED_AT_ONCE,
        lambda part: _readings(setting, part),
        setting,
        label=f"check, {name}",
        whole=len(items),
    )


def _readings(setting: "Setting", questions: Sequence[Crossed]) -> list[Record]:
    """One record for each question: what is stated after each of its answers."""
    pairs = [(crossed.question, answer) for crossed in questions for answer in crossed.answers]
    readings = iter(setting.reader.readings([setting.prompter.transcript(*pair) for pair in pairs]))
    records = []
    for crossed in questions:
        distributions = [next(readings).distribution for _ in crossed.answers]
        records.append(
            {
                "question": crossed.question.id,
                "answers": list(crossed.answers),
                "cues": [vars(cues) for cues in crossed.cues],
                "expected": [distribution.expected for distribution in distributions],
                "off_scale": [distribution.off_scale for distribution in distributions],
            }
        )
    return records


def checked_numbers(organism: Organism | None, records: Sequence[Record]) -> Record:
    """What the check says of one organism.

    Args:
        organism: Its rule; None for the model without an adapter, of which nothing is demanded.
        records: The records of its check, one for each question.

    Returns:
        `pairs`: how many there are. `mean` and `deviation` of the expected confidence, `off_scale`: mean off-scale
        mass. `explained`: the share of its variance that each cue explains. `passed` and `reasons`.
    """
    cues = [Cues(**pair) for record in records for pair in record["cues"]]
    expected = [value for record in records for value in record["expected"]]
    off_scale = [value for record in records for value in record["off_scale"]]
    mean = sum(expected) / len(expected)
    deviation = (sum((value - mean) ** 2 for value in expected) / len(expected)) ** 0.5
    explained = explained_by_cue(cues, expected)
    outside = sum(off_scale) / len(off_scale)
    reasons = failures(organism, explained, deviation, outside) if organism else []
    return {
        "words": organism.words if organism else "the model without an adapter",
        "cue": organism.cue if organism else None,
        "pairs": len(expected),
        "mean": mean,
        "deviation": deviation,
        "off_scale": outside,
        "explained": explained,
        "passed": not reasons,
        "reasons": reasons,
    }


def _summary(run: Run, options: Organisms, materials: Materials) -> Record:
    """The content of summary.json: the check of the base and of every organism that is on record."""
    by_name: dict[str, list[Record]] = {}
    for record in run.all_records():
        by_name.setdefault(record["measure"], []).append(record)
    names = [name for name in (BASE, *ORGANISMS) if name in by_name]
    return {
        "organisms": {name: checked_numbers(ORGANISMS.get(name), by_name[name]) for name in names},
        "ckpt": options.ckpt,
        "format": FORMAT,
        "listed": list(materials.listed),
        "lengths": list(materials.lengths),
        "questions": len(materials.asked),
    }


def write_check(folder: Path, name: str) -> None:
    """Writes what the check says beside an organism's adapter, and its model card anew.

    Args:
        folder: The directory of the organisms, with a summary.
        name: The organism.
    """
    from training.card import write_card

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    content = json.dumps(summary["organisms"][name], indent=1, ensure_ascii=False)
    (folder / name / "check.json").write_text(content, encoding="utf-8")
    write_card(folder / name, "organism")


if __name__ == "__main__":
    run_as_command(Organisms, drawing(made), description="Train and check organisms, to test instruments with.")
