"""The whole experiment as steps: what is trained, what is measured, and what has to be finished before.

How steps are run, one after the other or side by side, is in `training.schedule`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.embedded import EMBEDDED_NAME
from interp.options import at_least, changed, composed
from training.triplets import answers_beside

if TYPE_CHECKING:
    from interp.pipelines.evaluation import Evaluate
    from training.triplets import Triplets

SEEN, VALIDATION = "facts:test", "facts:unseen"
"""Facts of relations that training has seen, and of those that recipes were chosen on."""
EVERY = 25
"""Updates between two points of a learning curve."""
ALL = 10_000
"""More questions than any of the data sets of facts has: all of them are asked."""
FREE = ("default", "recalibrated")
"""What needs no more than the stated confidence: measured on every checkpoint."""
RIVALS = (*FREE, "p-true", "sequence", "self-consistency", "prompting", "probe", "steered")
"""What else gives a confidence, without training: measured on the base."""
FILES = ("triviaqa_train.jsonl", "triviaqa_test.jsonl", "mmlu.jsonl", "logiqa_test.jsonl")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Train ADVICE, ConfTuner and both, and measure them beside the base."""

    data: Path
    """A directory with triviaqa_train.jsonl, triviaqa_test.jsonl, mmlu.jsonl and logiqa_test.jsonl."""
    ckpt: str = EMBEDDED_NAME
    """The model to train."""
    final: str = "facts:final"
    """Data of the final test: relations that neither training nor the choice of recipes has seen."""
    out: Path = Path("runs")
    """Where all runs go. What is finished there is not done again."""
    seeds: int = 3
    """ADVICE, ADVICE without its margin, and ConfTuner are trained with so many seeds each."""
    sample: int = 8000
    """Questions asked for triplets: training relations of the facts, and TriviaQA."""
    greedy_wrong: int = 400
    """So many questions of each of them that the model answers wrong are sampled for a right answer."""
    held_out: int = 64
    """Questions of them kept from training, for the learning curves."""
    updates: int | None = None
    """Updates of each training; by default the preset's."""
    n: int = ALL
    """Questions of each relation set of the facts, at most."""
    n_breadth: int = 200
    """Questions of TriviaQA, MMLU and LogiQA each, and of the facts in untrained formats."""
    diagnose: int = 96
    """Questions on which every adapter's dependence on the answer is measured; a quarter of them by all instruments, on
    the first ADVICE adapter."""
    triplets: Path | None = None
    """A file of triplets with its answers beside it, from an earlier experiment; else they are built."""
    device: str = "auto"
    """cuda, mps or cpu."""
    workers: int = 1
    """So many steps run side by side, each in a process of its own with a share of the processor's cores."""
    only: str | None = None
    """The name of one step, which alone is run."""

    def __post_init__(self) -> None:
        at_least(0, "greedy_wrong", self.greedy_wrong)
        for name in ("seeds", "sample", "held_out", "n", "n_breadth", "diagnose", "workers"):
            at_least(1, name, getattr(self, name))
        for name in FILES:
            if not (self.data / name).is_file():
                raise UserError(f"--data {self.data}: there is no {name} in it")
        for file in (self.triplet_file, answers_beside(self.triplet_file)):
            if self.triplets and not file.is_file():
                raise UserError(f"--triplets {self.triplets}: there is no {file.name}")

    @property
    def triplet_file(self) -> Path:
        """The file that ADVICE is trained on; ConfTuner's is beside it."""
        return self.triplets or self.out / "triplets.jsonl"

    def adapters(self, name: str) -> list[Path]:
        """The directories of a training's adapters, one for each seed."""
        return [self.out / f"{name}-{seed}" for seed in range(self.seeds)]


@dataclass(frozen=True)
class Step:
    """One training, or one measurement."""

    name: str
    """What it is called."""
    body: Callable[[], object]
    """Does it; leaves alone what an earlier run has finished."""
    needs: tuple[str, ...] = ()
    """Names of the steps that have to be finished before."""


ADVICE, WITHOUT_MARGIN, CONFTUNER, BOTH = "advice", "without-margin", "conftuner", "advice-conftuner"
"""Names of trainings, and of the directories of their adapters."""


def steps(options: Experiment) -> Iterator[Step]:
    """The steps of the experiment, in an order in which each comes after those that it needs."""
    from figures.report import reported
    from figures.training import reported_settings
    from interp.pipelines.compare import Compare, compared
    from interp.pipelines.evaluate import evaluated
    from training.card import write_card
    from training.outcomes import reported_outcomes
    from training.triplets import built

    if options.triplets is None:
        triplet_options = _triplet_options(options)
        yield Step("triplets", lambda: built(triplet_options))
    yield from _trainings(options)
    evaluations = _evaluations(options)
    for name, evaluation in evaluations.items():
        trained = tuple(Path(ckpt).name for ckpt in evaluation.ckpt[1:])
        yield Step(name, partial(lambda asked: reported(evaluated(asked)), evaluation), trained)
    dependence = list(_dependence(options))
    yield from dependence
    first, tuner = f"{ADVICE}-0", f"{CONFTUNER}-0"
    comparison = composed(
        Compare,
        before=options.ckpt,
        after=str(options.out / first),
        data=options.final,
        n=-(-options.diagnose // 4),
        n_calibration=0,
        also=("flow", "probe", "steering"),
        device=options.device,
        out=options.out / first / "compare",
    )

    def compared_on_the_card() -> None:
        reported(compared(comparison))
        write_card(options.out / first, ADVICE)

    yield Step("compare", compared_on_the_card, (first,))
    settings = tuple(name for name in evaluations if name != "rivals")
    folders = [options.out / name for name in settings]
    yield Step("settings", lambda: reported_settings(folders, (first, tuner), options.out), settings)
    measured = (*evaluations, *(step.name for step in dependence))
    yield Step("outcomes", lambda: reported_outcomes(options.out), measured)


def _trainings(options: Experiment) -> Iterator[Step]:
    """All trainings; a step is called as the directory of its adapter."""
    from training.advice import Advice
    from training.advice import trained as advised
    from training.conftuner import ConfTuner
    from training.conftuner import trained as tuned

    training = {
        "ckpt": options.ckpt,
        "device": options.device,
        "dtype": "bfloat16",
        "levels": "token",
        "updates": options.updates,
        "every": EVERY,
        "held_out": options.held_out,
        "diagnose": 0,
    }
    needs, file = () if options.triplets else ("triplets",), options.triplet_file
    for name, terms in ((ADVICE, {}), (WITHOUT_MARGIN, {"margin": 0.0})):
        for seed, out in enumerate(options.adapters(name)):
            advice = composed(Advice, **training, **terms, triplets=file, seed=seed, out=out)
            yield Step(out.name, partial(advised, advice), needs)
    for seed, out in enumerate(options.adapters(CONFTUNER)):
        tuner = composed(ConfTuner, **training, answers=answers_beside(file), seed=seed, out=out)
        yield Step(out.name, partial(tuned, tuner), needs)
    first = options.out / f"{ADVICE}-0"
    both = changed(tuner, ckpt=str(first), seed=0, out=options.out / BOTH)
    yield Step(BOTH, lambda: tuned(both), (*needs, first.name))


def _triplet_options(options: Experiment) -> "Triplets":
    """The options of the building of triplets."""
    from training.triplets import Triplets

    return composed(
        Triplets,
        ckpt=options.ckpt,
        device=options.device,
        data=("facts:train", str(options.data / FILES[0])),
        apart_from=(SEEN, VALIDATION, options.final, str(options.data / FILES[1])),
        sample=options.sample,
        greedy_wrong=options.greedy_wrong,
        n_wrong=6,
        wrong_from="branched",
        out=options.triplet_file,
    )


def _evaluations(options: Experiment) -> "dict[str, Evaluate]":
    """The evaluations of the base beside the adapters, by name."""
    from interp.pipelines.evaluation import Evaluate

    def evaluation_of(name: str, ckpts: Sequence[Path], **asked: object) -> Evaluate:
        names = (options.ckpt, *map(str, ckpts))
        return composed(Evaluate, ckpt=names, device=options.device, out=options.out / name, **asked)

    seeds = {name: options.adapters(name) for name in (ADVICE, CONFTUNER, WITHOUT_MARGIN)}
    firsts = [folders[0] for name, folders in seeds.items() if name != WITHOUT_MARGIN]
    everything = [*(folder for folders in seeds.values() for folder in folders), options.out / BOTH]
    trained = [*seeds[ADVICE], *seeds[CONFTUNER], options.out / BOTH]
    source, triviaqa, *choices = (str(options.data / name) for name in FILES)
    both, few = ("ScoreNumber", "ScoreLetter"), options.n_breadth
    return {
        "final": evaluation_of(
            "final", everything, data=(options.final,), methods=FREE, n=options.n, pool=tuple(seeds)
        ),
        "rivals": evaluation_of("rivals", [], data=(options.final,), methods=RIVALS, n=options.n),
        "relations": evaluation_of(
            "relations", trained, data=(SEEN, VALIDATION), n=options.n, pool=(ADVICE, CONFTUNER)
        ),
        "formats": evaluation_of("formats", firsts, data=(options.final,), formats=tuple(FORMATS), n=few),
        "triviaqa": evaluation_of("triviaqa", firsts, data=(triviaqa,), formats=both, trained_on=source, n=few),
        "choices": evaluation_of("choices", firsts, data=tuple(choices), formats=both, n=few),
    }


def _dependence(options: Experiment) -> Iterator[Step]:
    """How far each adapter's confidence depends on the answer, with the right and wrong answers of the base."""
    from figures.report import reported
    from interp.pipelines.diagnose import diagnosed
    from interp.pipelines.diagnosis import Diagnose

    base = options.out / "dependence-base"
    adapters = [folder for name in (ADVICE, CONFTUNER, WITHOUT_MARGIN) for folder in options.adapters(name)]
    given = {"data": options.final, "n": options.diagnose, "device": options.device}

    def step(out: Path, asked: Diagnose, *needs: str) -> Step:
        return Step(out.name, lambda: reported(diagnosed(asked, ("jsd",), "jsd")), needs)

    yield step(base, composed(Diagnose, **given, ckpt=options.ckpt, out=base))
    for adapter in adapters:
        out = options.out / f"dependence-{adapter.name}"
        yield step(out, composed(Diagnose, **given, ckpt=str(adapter), cases=base, out=out), base.name, adapter.name)
