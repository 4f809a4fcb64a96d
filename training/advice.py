"""`python -m training.advice`: the contrastive LoRA fine-tuning that makes a stated confidence look at its answer."""

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from interp.commands import at_least, run_as_command
from interp.embedded import EMBEDDED_NAME
from interp.errors import UserError
from training.triplets import Triplet, loaded_triplets


@dataclass(frozen=True)
class Weights:
    """What each term of ADVICE's objective counts, and where it stops asking for more; 0 switches a term off."""

    lm: float = 1.0
    """Negative log-likelihood of the right answer."""
    jsd: float = 1.0
    """How far the two distributions are short of `jsd_wanted`."""
    margin: float = 1.0
    """How far the two means are short of lying `margin_wanted` apart."""
    sum: float = 1.0
    """How far the two means are from adding up to 1."""
    jsd_wanted: float = 0.6
    """Nats; at most ln 2."""
    margin_wanted: float = 1.0
    """On the scale of the levels' values; out of reach where those span less, as in ScoreLetter."""

    def __post_init__(self) -> None:
        for name in ("lm", "jsd", "margin", "sum"):
            if not getattr(self, name) >= 0:
                raise UserError(f"the weight of the term {name} is {getattr(self, name)}: must be at least 0")


@dataclass(frozen=True, kw_only=True)
class Advice:
    """Train an ADVICE adapter."""

    ckpt: str = EMBEDDED_NAME
    """The model to train: the one that the triplets come from."""
    triplets: Path
    """The file that `python -m training.triplets` wrote."""
    out: Path = Path("runs/advice")
    """Where the adapter goes."""
    lr: float = 1e-5
    """Peak learning rate; the paper's, but 3e-5 for Mistral."""
    epochs: int = 4
    """Passes over the triplets."""
    batch: int = 16
    """Triplets in a mini-batch, all of one format."""
    accumulation: int = 2
    """Mini-batches to an update."""
    updates: int | None = None
    """Stop after so many updates; by default after all epochs."""
    rank: int = 16
    """LoRA's rank; its alpha is twice that."""
    weights: Weights = field(default_factory=Weights)
    """The terms of the objective."""
    held_out: int = 64
    """Triplets kept from training, on which the learning curve is measured."""
    every: int = 20
    """Updates between two points of the learning curve."""
    shots: int | None = None
    """Worked examples in the prompt; by default what the checkpoint's preset says."""
    shot_sets: int = 8
    """Sets of examples, of which each mini-batch has one: a confidence must not be copied from an example."""
    seed: int = 0
    """Decides the order of the triplets and the adapter's first weights."""
    device: str = "auto"
    """cuda, mps or cpu."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "accumulation", "rank", "every"):
            at_least(1, name, getattr(self, name))
        if not self.lr > 0:
            raise UserError(f"--lr {self.lr}: must be more than 0")


@dataclass(frozen=True)
class MiniBatch:
    """Triplets of one format, asked with one set of examples."""

    triplets: tuple[Triplet, ...]
    """The triplets."""
    shot_seed: int
    """Which set of examples."""


def mini_batches(triplets: Sequence[Triplet], options: Advice) -> list[MiniBatch]:
    """All mini-batches of all epochs, in an order that the seed decides."""
    found: list[MiniBatch] = []
    for epoch in range(options.epochs):
        draw = random.Random(f"{options.seed}-{epoch}")
        made = []
        for form in sorted({triplet.format for triplet in triplets}):
            of_form = [triplet for triplet in triplets if triplet.format == form]
            draw.shuffle(of_form)
            made += [tuple(of_form[i : i + options.batch]) for i in range(0, len(of_form), options.batch)]
        draw.shuffle(made)
        found += [MiniBatch(one, draw.randrange(options.shot_sets)) for one in made]
    return found


def split(triplets: Sequence[Triplet], options: Advice) -> tuple[list[Triplet], list[Triplet]]:
    """(for training, held out): by question, so that no question stands on both sides."""
    ids = sorted({triplet.question.id for triplet in triplets})
    random.Random(f"held-out-{options.seed}").shuffle(ids)
    kept = set(ids[: options.held_out])
    if len(kept) == len(ids):
        raise UserError(f"--held-out {options.held_out}: there are only {len(ids)} questions with a triplet")
    return [t for t in triplets if t.question.id not in kept], [t for t in triplets if t.question.id in kept]


def trained(options: Advice) -> Path:
    """Trains the adapter and returns its directory."""
    triplets = loaded_triplets(options.triplets)
    train, held_out = split(triplets, options)
    from interp.checkpoints import loaded_checkpoint, source_of

    source_of(options.ckpt)
    from training.loop import train_adapter

    checkpoint = loaded_checkpoint(options.ckpt, device=options.device, dtype="float32")
    options.out.mkdir(parents=True, exist_ok=True)
    told = {key: str(value) if isinstance(value, Path) else value for key, value in asdict(options).items()}
    (options.out / "advice.json").write_text(json.dumps(told, indent=1))
    train_adapter(checkpoint, mini_batches(train, options), held_out, options)
    return options.out


if __name__ == "__main__":
    run_as_command(Advice, lambda options: print(trained(options)), description="Train an ADVICE adapter.")
