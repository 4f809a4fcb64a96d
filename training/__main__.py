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
SEEN, UNSEEN = "facts:test", "facts:unseen"
"""What is tested first: facts of relations that training has seen, and of others."""
EVERY = 25
"""Updates between two points of a learning curve."""
FILES = ("triviaqa_train.jsonl", "triviaqa_test.jsonl", "mmlu.jsonl", "logiqa_test.jsonl")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Train ADVICE, ConfTuner and both, and measure them beside the base."""

    data: Path
    """A directory with triviaqa_train.jsonl, triviaqa_test.jsonl, mmlu.jsonl and logiqa_test.jsonl."""
    ckpt: str = EMBEDDED_NAME
    """The model to train."""
    out: Path = Path("runs")
    """Where all runs go. What is finished there is not done again."""
    seeds: int = 3
    """ADVICE is trained with so many seeds."""
    sample: int = 8000
    """Questions asked for triplets: training relations of the facts, and TriviaQA."""
    greedy_wrong: int = 300
    """So many questions of each of them that the model answers wrong are sampled for a right answer."""
    held_out: int = 64
    """Questions of them kept from training, for the learning curves."""
    updates: int | None = None
    """Updates of each training; by default the preset's, and 50 for a row of the ablation."""
    n: int = 300
    """Questions of each relation set of the facts."""
    n_breadth: int = 100
    """Questions of TriviaQA, MMLU and LogiQA each."""
    diagnose: int = 48
    """Questions that the first ADVICE adapter is compared with the base on."""
    device: str = "auto"
    """cuda, mps or cpu."""

    def __post_init__(self) -> None:
        at_least(0, "greedy_wrong", self.greedy_wrong)
        for name in ("seeds", "sample", "held_out", "n", "n_breadth"):
            at_least(1, name, getattr(self, name))
        for name in FILES:
            if not (self.data / name).is_file():
                raise UserError(f"--data {self.data}: there is no {name} in it")


def steps(options: Experiment) -> Iterator[Step]:
    """The steps of the experiment in their order.

    Args:
        options: The command's options.

    Yields:
        A step's name and its body. A body leaves alone what an earlier run has finished.
    """
    from figures.report import reported
    from figures.training import reported_settings
    from interp.pipelines.evaluate import evaluated
    from interp.pipelines.evaluation import Evaluate
    from training.ablation import Ablation, ablated
    from training.advice import Advice
    from training.advice import trained as advised
    from training.conftuner import ConfTuner
    from training.conftuner import trained as tuned
    from training.triplets import answers_beside, built

    out, triplets = options.out, options.out / "triplets.jsonl"
    training = {
        "ckpt": options.ckpt,
        "device": options.device,
        "updates": options.updates,
        "dtype": "bfloat16",
        "every": EVERY,
        "held_out": options.held_out,
    }
    first, tuner, both = out / "advice-0", out / "conftuner", out / "advice-conftuner"
    triplet_options = _triplet_options(options, triplets)
    yield "triplets", lambda: built(triplet_options)
    for seed in range(options.seeds):
        advice = composed(
            Advice,
            **training,
            triplets=triplets,
            seed=seed,
            diagnose=0 if seed else options.diagnose,
            out=out / f"advice-{seed}",
        )
        yield f"advice, seed {seed}", partial(advised, advice)
    tuner_options = composed(ConfTuner, **training, answers=answers_beside(triplets), diagnose=0, out=tuner)
    yield "conftuner", lambda: tuned(tuner_options)
    yield "advice + conftuner", lambda: tuned(changed(tuner_options, ckpt=str(first), out=both))

    def measured(evaluation: Evaluate) -> None:
        reported(evaluated(evaluation))

    seeds = [out / f"advice-{seed}" for seed in range(options.seeds)]
    evaluations = _evaluations(options, seeds, [first, tuner, both])
    for name, evaluation in evaluations.items():
        yield name, partial(measured, evaluation)
    compared = [out / name for name in evaluations if name != "tokens"]
    yield "advice against conftuner", lambda: reported_settings(compared, (first.name, tuner.name), out)
    training["updates"] = options.updates or 50
    grid = composed(Ablation, **training, triplets=triplets, n=options.n_breadth, out=out / "ablation")
    yield "ablation", lambda: reported(ablated(grid))


def _triplet_options(options: Experiment, out: Path) -> "Triplets":
    """The options of the building of triplets, which go to the file `out`."""
    from training.triplets import Triplets

    return composed(
        Triplets,
        ckpt=options.ckpt,
        device=options.device,
        data=("facts:train", str(options.data / FILES[0])),
        apart_from=(SEEN, UNSEEN, str(options.data / FILES[1])),
        sample=options.sample,
        greedy_wrong=options.greedy_wrong,
        out=out,
    )


def _evaluations(options: Experiment, seeds: Sequence[Path], methods: Sequence[Path]) -> "dict[str, Evaluate]":
    """The evaluations of the base beside the adapters, by name.

    Args:
        options: The command's options.
        seeds: Directories of the ADVICE adapters, one for each seed.
        methods: Directories of three adapters: ADVICE of the first seed, ConfTuner, both.
    """
    from interp.pipelines.evaluation import Evaluate

    def evaluation_of(ckpts: Sequence[Path]) -> Evaluate:
        names = (options.ckpt, *map(str, ckpts))
        return composed(Evaluate, ckpt=names, device=options.device, n=options.n_breadth)

    trained = ("ScoreNumber", "ScoreLetter")
    source, triviaqa, *choices = (str(options.data / name) for name in FILES)
    facts, tokens = evaluation_of([*seeds, *methods[1:]]), evaluation_of(methods[:1])
    evaluations = {
        "facts": changed(facts, data=(SEEN, UNSEEN), methods=("default", "question-only"), n=options.n),
        "formats": changed(evaluation_of(methods), data=(SEEN,), formats=tuple(FORMATS)),
        "triviaqa": changed(evaluation_of(methods), data=(triviaqa,), formats=trained, trained_on=source),
        "choices": changed(evaluation_of(methods), data=tuple(choices), formats=trained),
        "tokens": changed(tokens, data=(SEEN,), methods=("default", "self-consistency")),
    }
    return {name: changed(evaluation, out=options.out / name) for name, evaluation in evaluations.items()}


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
