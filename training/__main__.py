"""`python -m training`: the whole experiment on the embedded model, from questions to the comparison of methods."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from interp.cli.command import run_as_command
from interp.errors import UserError
from interp.formats import FORMATS
from interp.models.embedded import EMBEDDED_NAME
from interp.options import at_least, changed, composed
from interp.run.processes import launched

if TYPE_CHECKING:
    from interp.pipelines.evaluation import Evaluate
    from training.triplets import Triplets

Step = tuple[str, Callable[[], object]]
SEEN, VALIDATION = "facts:test", "facts:unseen"
"""Facts of relations that training has seen, and of those that recipes were chosen on."""
EVERY = 25
"""Updates between two points of a learning curve."""
ALL = 10_000
"""More questions than any of the data sets of facts has: all of them are asked."""
RIVALS = ("default", "recalibrated", "p-true", "sequence", "self-consistency", "prompting", "probe", "steered")
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
    """Questions on which every adapter's dependence on the answer is measured; half of them by all instruments, on the
    first ADVICE adapter."""
    device: str = "auto"
    """cuda, mps or cpu."""

    def __post_init__(self) -> None:
        at_least(0, "greedy_wrong", self.greedy_wrong)
        for name in ("seeds", "sample", "held_out", "n", "n_breadth", "diagnose"):
            at_least(1, name, getattr(self, name))
        for name in FILES:
            if not (self.data / name).is_file():
                raise UserError(f"--data {self.data}: there is no {name} in it")

    def adapters(self, name: str) -> list[Path]:
        """The directories of a training's adapters, one for each seed."""
        return [self.out / f"{name}-{seed}" for seed in range(self.seeds)]


ADVICE, WITHOUT_MARGIN, CONFTUNER, BOTH = "advice", "without-margin", "conftuner", "advice-conftuner"
"""Names of trainings, and of the directories of their adapters."""


def steps(options: Experiment) -> Iterator[Step]:
    """The steps of the experiment in their order.

    Args:
        options: The command's options.

    Yields:
        A step's name and its body. A body leaves alone what an earlier run has finished.
    """
    from figures.report import reported
    from figures.training import reported_settings
    from interp.pipelines.compare import Compare, compared
    from interp.pipelines.evaluate import evaluated
    from interp.pipelines.evaluation import Evaluate
    from training.outcomes import reported_outcomes
    from training.triplets import built

    triplet_options = _triplet_options(options, options.out / "triplets.jsonl")
    yield "triplets", lambda: built(triplet_options)
    yield from _trainings(options)

    def measured(evaluation: Evaluate) -> None:
        reported(evaluated(evaluation))

    evaluations = _evaluations(options)
    for name, evaluation in evaluations.items():
        yield name, partial(measured, evaluation)
    yield from _dependence(options)
    first, tuner = options.out / f"{ADVICE}-0", options.out / f"{CONFTUNER}-0"
    comparison = composed(
        Compare,
        before=options.ckpt,
        after=str(first),
        data=options.final,
        n=-(-options.diagnose // 2),
        n_calibration=0,
        also=("flow", "probe", "steering"),
        device=options.device,
        out=options.out / "compare",
    )
    yield "before and after, all instruments", lambda: reported(compared(comparison))
    settings = [options.out / name for name in evaluations if name != "rivals"]
    yield "advice against conftuner", lambda: reported_settings(settings, (first.name, tuner.name), options.out)
    yield "outcomes", lambda: reported_outcomes(options.out)


def _trainings(options: Experiment) -> Iterator[Step]:
    """All trainings: their adapters go to directories of their names."""
    from training.advice import Advice
    from training.advice import trained as advised
    from training.conftuner import ConfTuner
    from training.conftuner import trained as tuned
    from training.triplets import answers_beside

    triplets = options.out / "triplets.jsonl"
    training = {
        "ckpt": options.ckpt,
        "device": options.device,
        "updates": options.updates,
        "every": EVERY,
        "held_out": options.held_out,
        "diagnose": 0,
    }
    for name, terms in ((ADVICE, {}), (WITHOUT_MARGIN, {"margin": 0.0})):
        for seed, out in enumerate(options.adapters(name)):
            advice = composed(Advice, **training, **terms, triplets=triplets, seed=seed, out=out)
            yield f"{name}, seed {seed}", partial(advised, advice)
    for seed, out in enumerate(options.adapters(CONFTUNER)):
        tuner = composed(ConfTuner, **training, answers=answers_beside(triplets), seed=seed, out=out)
        yield f"{CONFTUNER}, seed {seed}", partial(tuned, tuner)
    first = options.out / f"{ADVICE}-0"
    both = changed(tuner, ckpt=str(first), seed=0, out=options.out / BOTH)
    yield "advice + conftuner", lambda: tuned(both)


def _triplet_options(options: Experiment, out: Path) -> "Triplets":
    """The options of the building of triplets, which go to the file `out`."""
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
        out=out,
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
        "final": evaluation_of("final", everything, data=(options.final,), n=options.n, pool=tuple(seeds)),
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
    sides = [(options.ckpt, base), *((str(folder), options.out / f"dependence-{folder.name}") for folder in adapters)]
    for ckpt, out in sides:
        given = {"ckpt": ckpt, "data": options.final, "n": options.diagnose, "device": options.device, "out": out}
        cases = {} if out == base else {"cases": base}
        diagnose = composed(Diagnose, **given, **cases)
        yield out.name, partial(lambda asked: reported(diagnosed(asked, ("jsd",), "jsd")), diagnose)


def experiment(options: Experiment) -> None:
    """Runs every step that is not finished yet, and prints how long each took.

    Raises:
        UserError: where it is launched in several processes, or a step fails.
    """
    if launched(options.device).count > 1:
        raise UserError("the whole experiment runs in one process; launch the commands of its steps in several")
    for name, body in steps(options):
        began = time.perf_counter()
        body()
        print(f"step: {name}, {time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    run_as_command(Experiment, experiment, description=__doc__)
