"""The package from Python: a model, questions, and what was measured of them.

It lies above pipelines and figures and adds nothing to what they measure."""

import hashlib
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from interp.datasets.questions import loaded_questions, question_of_record, shuffled
from interp.errors import UserError
from interp.formats import FORMATS, FormatName
from interp.instruments.jsd import divergence, surface_variants
from interp.pipelines.compare import paired_records
from interp.pipelines.diagnose import Diagnose, InstrumentName, WrongName, diagnosed
from interp.records import ConfidenceDistribution, Question
from interp.run import runs
from interp.run.runs import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

FigureName = Literal["jsd", "likelihood", "rollout", "attribution", "masking", "tokens"]
INSTRUMENTS: tuple[InstrumentName, ...] = get_args(InstrumentName)
SHORT = "{:.3g}".format
IN_MEMORY = "in memory"
"""What the data of a run are called that came as a list."""


def questions(data: "str | Iterable[Question | Mapping[str, Any]] | DataFrame", n: int | None = None) -> list[Question]:
    """Questions from any source.

    Args:
        data: `facts[:train|test|unseen]`, `triviaqa`, `mmlu`, `logiqa`, `sciq` or a JSONL file, shuffled as by the
            commands; or Questions, mappings or the rows of a DataFrame with `question` and `answers` (or `choices` and
            `answer`), in their own order.
        n: how many of them; by default all.

    Raises:
        UserError: naming the row that is no question, or the file and its line.
    """
    if isinstance(data, str):
        return shuffled(loaded_questions(data), 0)[:n]
    rows = data.to_dict("records") if hasattr(data, "to_dict") else data
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(row if isinstance(row, Question) else question_of_record(row))
        except ValueError as error:
            raise UserError(f"question {number}: {error}") from None
    return found[:n]


def load(
    model: "str | PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    format: FormatName = "ScoreNumber",
    shots: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
) -> "Model":
    """A model to be asked for its confidence.

    Args:
        model: what `--ckpt` takes (the embedded model, a directory, a hub id, an adapter), or a model in memory, with
            an adapter or without, which stays as it is.
        tokenizer: the tokenizer of a model in memory.
        format: how confidence is stated.
        shots: worked examples in the prompt; by default what the checkpoint's preset says, mostly none.
        device: cuda, mps or cpu, for a checkpoint that is loaded here.
        dtype: float32, bfloat16 or float16, likewise; by default float32 wherever it fits.

    Raises:
        UserError: for a checkpoint that cannot be loaded, a model without a tokenizer, and one in training mode.
    """
    from interp.models.checkpoints import Checkpoint, Loading, loaded_checkpoint

    if isinstance(model, str):
        return Model(loaded_checkpoint(model, Loading(device, dtype)), format, shots)
    if tokenizer is None:
        raise UserError("a model in memory needs its tokenizer: interp.load(model, tokenizer)")
    if model.training:
        raise UserError("the model is in training mode, so that dropout would blur what it says: call model.eval()")
    name = getattr(model.config, "_name_or_path", "") or type(model).__name__
    return Model(Checkpoint(str(name), model, tokenizer), format, shots)


class Model:
    """A model in one format, ready to be asked; made by `interp.load`."""

    def __init__(self, checkpoint: "Checkpoint", format: FormatName, shots: int | None) -> None:
        """shots: None for what the checkpoint's preset says."""
        self.checkpoint = checkpoint
        self.format: FormatName = format
        self.shots = checkpoint.shots if shots is None else shots
        self._setting = cache(self._prepared)

    def __repr__(self) -> str:
        dtype = str(self.checkpoint.model.dtype).removeprefix("torch.")
        return f"Model({self.checkpoint.name!r}, {self.format}, shots={self.shots}, {dtype})"

    def answer(self, question: str | Question) -> str | None:
        """The model's own greedy answer to a question; None where it gives none that could be put to it again."""
        from interp.answers import asked_for

        asked = _question(question)
        (record,) = asked_for(self._setting(bool(asked.choices)), [asked], free=False)
        answer: str | None = record["answer"]
        return answer

    def confidence(self, question: str | Question, answer: str) -> ConfidenceDistribution:
        """P(C | q, a): how probable each level is when the model has given this answer to this question."""
        return self._confidences(_question(question), [answer])[0]

    def contrast(self, question: str | Question, right: str, wrong: str) -> "Contrast":
        """The confidence after one answer beside that after another, with the noise that looks alone would make."""
        asked = _question(question)
        variants = surface_variants(right)
        first, second, *others = self._confidences(asked, [right, wrong, *variants])
        noise = float(np.mean([divergence(first, other) for other in others])) if others else None
        return Contrast(asked.text, (right, wrong), (first, second), divergence(first, second), noise)

    def diagnose(
        self,
        data: "str | Iterable[Question | Mapping[str, Any]] | DataFrame",
        *,
        instruments: Sequence[InstrumentName] = INSTRUMENTS,
        n: int = 48,
        n_attribution: int = 8,
        wrong: WrongName = "branched",
        candidates: int = 8,
        seed: int = 0,
        out: str | Path | None = None,
    ) -> "Result":
        """What the instruments measure on the first questions that the model answers right.

        Args:
            data: as `interp.questions` takes them.
            instruments: which of jsd, rollout, attribution and masking.
            n: how many questions, at most.
            n_attribution: how many of them are attributed.
            wrong: where wrong answers come from: branched, sampled or foil.
            candidates: distinct answers to a question whose pairwise divergence is measured.
            seed: decides everything that is drawn by chance.
            out: the run's directory, so that it can be continued, redrawn and compared later; by default nothing is
                left on disk.

        Raises:
            UserError: where no question is answered right, and for what an instrument cannot do on this model.
        """
        asked = questions(data)
        if not asked:
            raise UserError("no questions: nothing to measure")
        with tempfile.TemporaryDirectory() as folder:
            options = Diagnose(
                ckpt=self.checkpoint.name,
                data=data if isinstance(data, str) else IN_MEMORY,
                n=n,
                format=self.format,
                shots=self.shots,
                n_attribution=n_attribution,
                wrong=wrong,
                candidates=Diagnose.candidates if wrong == "foil" else candidates,
                tries=max(candidates, Diagnose.tries),
                seed=seed,
                out=Path(out or folder),
            )
            checkpoint = self._identified(out is not None)
            return read_run(diagnosed(options, instruments, "diagnose", checkpoint, questions=asked))

    def _identified(self, resumable: bool) -> "Checkpoint":
        """The checkpoint, with a fingerprint of its weights where a run on disk must know them again."""
        checkpoint = self.checkpoint
        if checkpoint.fingerprint or not resumable:
            return checkpoint
        import torch

        digest = hashlib.sha256()
        for weights in checkpoint.model.state_dict().values():
            digest.update(weights.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return replace(checkpoint, fingerprint=digest.hexdigest()[:12])

    def _prepared(self, choices: bool) -> "Setting":
        from interp.models.setting import prepared

        return prepared(self.checkpoint, FORMATS[self.format], shots=self.shots, choices=choices)

    def _confidences(self, question: Question, answers: Sequence[str]) -> list[ConfidenceDistribution]:
        setting = self._setting(bool(question.choices))
        for answer in answers:
            if "\n" in answer.strip() or not setting.prompter.speakable(question, answer):
                raise UserError(f"{answer!r} cannot be put into the prompt as an answer")
        transcripts = [setting.prompter.transcript(question, answer) for answer in answers]
        return [reading.distribution for reading in setting.reader.readings(transcripts)]


def _show_figures() -> None:
    """Lets a notebook show figures that a cell ends with, which it does by itself only where pyplot was imported."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from IPython.core.pylabtools import select_figure_formats

        select_figure_formats(shell, {"png"})


def _question(question: str | Question) -> Question:
    """Whether an answer is right is not asked here, so that a text alone will do."""
    return Question("asked", question, ("?",)) if isinstance(question, str) else question


@dataclass(frozen=True)
class Contrast:
    """The confidence after one answer beside that after another."""

    question: str
    """The question."""
    answers: tuple[str, str]
    """The two answers: the right one, the wrong one."""
    confidences: tuple[ConfidenceDistribution, ConfidenceDistribution]
    """The confidence after each."""
    jsd: float
    """Their Jensen-Shannon divergence in nats. 0: the model would have said the same. ln 2: they share no level."""
    noise_floor: float | None
    """Its mean over the right answer and the same in other letter case or with a full stop: no divergence up to here is
    a reaction to what the answer says. None where nothing can be varied."""

    def __repr__(self) -> str:
        sides = zip(self.answers, self.confidences, strict=True)
        expected = ", ".join(f"{answer!r} {one.expected:.3f}" for answer, one in sides)
        noise = "" if self.noise_floor is None else f", noise floor {self.noise_floor:.2g}"
        return f"Contrast({expected}; JSD {self.jsd:.2g}{noise})"

    def _repr_html_(self) -> str:
        sides = zip(self.answers, self.confidences, strict=True)
        rows = "".join(f"<tr><th>{escape(answer)}</th><td>{one._repr_html_()}</td></tr>" for answer, one in sides)
        noise = "" if self.noise_floor is None else f", noise floor {self.noise_floor:.2g}"
        return f"<p>{escape(self.question)}</p><table>{rows}</table><p>JSD {self.jsd:.2g} nats{noise}</p>"

    def plot(self) -> "Figure":
        """Both distributions side by side."""
        from figures.contrast import drawn_contrast

        _show_figures()
        return drawn_contrast(self.answers, self.confidences, self.jsd, self.noise_floor)


@dataclass(frozen=True, eq=False)
class Result:
    """A finished run: every number with its interval, every record, every figure."""

    config: Record = field(repr=False)
    """What was run: options, versions, fingerprints."""
    summary: Record = field(repr=False)
    """Every number, as in summary.json."""
    all_records: tuple[Record, ...] = field(repr=False)
    """One for each question and measure."""

    @cached_property
    def _rows(self) -> "DataFrame":
        from pandas import DataFrame

        from figures.table import table_of

        rows = [
            {
                "section": row.section,
                "number": row.name,
                "value": row.estimate.value,
                "low": row.estimate.low,
                "high": row.estimate.high,
                "n": row.estimate.n,
                "left out": row.estimate.left_out,
                "numerical floor": row.estimate.floor,
            }
            for row in table_of(self.summary).rows
        ]
        return DataFrame(rows).set_index(["section", "number"])

    def table(self) -> "DataFrame":
        """The headline numbers: value, 95 % interval, count, what was left out, numerical floor."""
        return self._rows.copy()

    def records(self, measure: str) -> "DataFrame":
        """A row for each question: the plain values of one measure, such as "jsd", or "answer".

        Raises:
            UserError: where the run has none of that name.
        """
        from pandas import DataFrame

        ours = [record for record in self.all_records if record["measure"] == measure]
        if not ours:
            there = ", ".join(dict.fromkeys(record["measure"] for record in self.all_records))
            raise UserError(f"this run has no records of {measure!r}; it has {there}")
        plain = [
            {key: value for key, value in record.items() if isinstance(value, str | int | float | bool | None)}
            | record.get("values", {})
            for record in ours
        ]
        return DataFrame(plain).set_index("id")

    def plot(self, name: FigureName = "jsd") -> "Figure":
        """The figure of an instrument, the scatter of JSD and likelihood, or the first question's tokens, shaded.

        Raises:
            UserError: where what it shows was not measured.
        """
        from figures.captions import subject_of
        from figures.report import PAGES_OF
        from figures.style import paper

        _show_figures()
        with paper():
            pages = list(PAGES_OF[name](self.all_records, subject_of(self.config, self.summary)))
        if not pages:
            raise UserError(f"{name} was not measured in this run")
        return pages[0].figure

    def compare(self, after: "Result") -> "DataFrame":
        """This run and another of the same questions: each number before and after, and the paired difference.

        Raises:
            UserError: where they share no instrument or no question.
        """
        from pandas import DataFrame

        shared = [name for name in INSTRUMENTS if name in self.summary and name in after.summary]
        if not shared:
            raise UserError("the two runs share no instrument")
        rows = {}
        for name in shared:
            for key, row in paired_records([self.all_records, after.all_records], name).items():
                change = row["difference"]
                rows[key] = {
                    "before": row["before"]["value"],
                    "after": row["after"]["value"],
                    "difference": change["value"],
                    "low": change["low"],
                    "high": change["high"],
                    "n": change["n"],
                }
        return DataFrame.from_dict(rows, orient="index")

    def __repr__(self) -> str:
        model, data = self.summary["model"]["name"], self.summary["data"]
        head = f"Result({model!r} on {data['name']!r}: {data['right']} of {data['asked']} right)"
        return f"{head}\n{self._rows.to_string(float_format=SHORT)}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self).partition(chr(10))[0])}</p>{self._rows.to_html(float_format=SHORT)}"


def read_run(folder: str | Path) -> Result:
    """A finished run of `interp.diagnose` on disk.

    Raises:
        UserError: where it is none.
    """
    config, summary, records = runs.read_run(Path(folder))
    if "model" not in summary:
        raise UserError(f"{folder}: no run of interp.diagnose; its summary.json has no model")
    return Result(config, summary, tuple(records))
