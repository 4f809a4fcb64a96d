"""The package from Python: a model, questions, and what was measured of them.

It lies above pipelines and figures and adds nothing to what they measure."""

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from interp.datasets.choices import LETTERS, choice_index
from interp.datasets.questions import loaded_questions, questions_of, shuffled
from interp.divergence import divergence
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments.jsd import surface_variants
from interp.instruments.registry import INSTRUMENTS, by_default
from interp.measures import AnswerRecord
from interp.options import Added, composed, refuse_unknown
from interp.pipelines.compare import PRIMARY, corrected, headline_keys, paired_records
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.elicit import WrongAnswers, WrongName
from interp.pipelines.evaluate import evaluated
from interp.pipelines.evaluation import Evaluate
from interp.records import ConfidenceDistribution, Question
from interp.run import runs
from interp.run.runs import Record
from interp.run.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from figures.captions import Page
    from interp.models.check import EngineCheck
    from interp.models.checkpoints import Checkpoint
    from interp.models.setting import Setting

SHORT = "{:.3g}".format
REPORT = "report.html"
"""What the page of a run is called."""
_NOTHING_ADDED = Added()
IN_MEMORY = "in memory"
"""What the data of a run are called that came as a list."""


def questions(
    data: "str | Path | Iterable[Question | Mapping[str, Any]] | DataFrame", n: int | None = None, *, seed: int = 0
) -> list[Question]:
    """Questions from any source.

    Args:
        data: `facts[:SPLIT]`, another named data set, a file or `hf:NAME`, shuffled as by the commands; or
            Questions, mappings or the rows of a DataFrame with `question` and `answers` (or `choices` and `answer`), in
            their own order.
            `answer`), in their own order.
        n: how many of them; by default all.
        seed: the order of those that are shuffled.

    Raises:
        UserError: naming the row that is no question, the file and its line, or an id that stands there twice.
    """
    if isinstance(data, str | Path):
        return shuffled(loaded_questions(str(data)), seed)[:n]
    rows = data.to_dict("records") if type(data).__name__ == "DataFrame" else list(data)  # type: ignore[union-attr]
    return questions_of(((f"question {number}", _plain(row)) for number, row in enumerate(rows)), "questions")[:n]


def _plain(row: object) -> object:
    """A row as JSON would hold it: arrays as lists, numbers of numpy as Python's, nothing for what is missing."""
    if isinstance(row, Mapping):
        plain = {key: _plain(value) for key, value in row.items()}
        return {key: value for key, value in plain.items() if not (isinstance(value, float) and np.isnan(value))}
    if isinstance(row, np.ndarray | np.generic):
        return _plain(row.tolist())
    return [_plain(value) for value in row] if isinstance(row, list | tuple) else row


def load(
    model: "str | PreTrainedModel | PeftModel",
    tokenizer: "PreTrainedTokenizerBase | None" = None,
    *,
    format: str = "ScoreNumber",
    shots: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    steer: str | Path | None = None,
    steer_dose: float = 1.0,
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
        steer: a steering.safetensors of `interp.steering`, whose vector is added wherever a confidence is read.
        steer_dose: how many units of it are added.

    Raises:
        UserError: for a checkpoint that cannot be loaded, a model without a tokenizer, and one in training mode.
    """
    from interp.models.checkpoints import Loading, held_checkpoint, loaded_checkpoint

    _refuse_unknown("format", format, FORMATS)
    _refuse_unknown("dtype", dtype, ("auto", "float32", "bfloat16", "float16"))
    added = Added(steer=Path(steer) if steer else None, steer_dose=steer_dose)
    if isinstance(model, str | Path):
        return Model(loaded_checkpoint(str(model), Loading(device, dtype)), format, shots, added)
    if tokenizer is None:
        raise UserError("a model in memory needs its tokenizer: interp.load(model, tokenizer)")
    _refuse_training(model)
    return Model(held_checkpoint(model, tokenizer), format, shots, added)


def _refuse_training(model: "PreTrainedModel | PeftModel") -> None:
    if model.training:
        raise UserError("the model is in training mode, so that dropout would blur what it says: call model.eval()")


def _refuse_unknown(what: str, name: str, known: Iterable[str]) -> None:
    if name not in (names := tuple(known)):
        raise UserError(f"{what} {name!r} is none of {', '.join(names)}")


def _instruments_chosen(names: str | Sequence[str] | None) -> list[str]:
    """The instruments of these names, in the order in which they run; those that run by default without a name.

    Raises:
        UserError: for a name that is no instrument's.
    """
    chosen = [names] if isinstance(names, str) else list(names or by_default())
    for name in chosen:
        _refuse_unknown("instrument", name, INSTRUMENTS)
    return [name for name in INSTRUMENTS if name in chosen]


class Model:
    """A model in one format, ready to be asked; made by `interp.load`."""

    def __init__(self, checkpoint: "Checkpoint", format: str, shots: int | None, added: Added = _NOTHING_ADDED) -> None:
        """shots: None for what the checkpoint's preset says. added: the steering vector, which must fit the model."""
        self.checkpoint = checkpoint
        self.added = added
        self._steering = added.steering(checkpoint)
        self.format: str = format
        self.shots = checkpoint.shots if shots is None else shots
        self._check: EngineCheck | None = None
        # a model that is someone else's may change between two questions: what was read before would be another's
        self._setting = cache(self._prepared) if checkpoint.fingerprint else self._prepared

    def __repr__(self) -> str:
        dtype = str(self.checkpoint.model.dtype).removeprefix("torch.")
        return f"Model({self.checkpoint.name!r}, {self.format}, shots={self.shots}, {dtype})"

    def answer(self, question: str | Question) -> str | None:
        """The model's own greedy answer, or the question's `response`; None where it could not be put again."""
        from interp.answers import asked_for

        asked = _question(question)
        (record,) = asked_for(self._setting(bool(asked.choices)), [asked], free=False)
        return typed(AnswerRecord, record).answer

    def confidence(self, question: str | Question, answer: str) -> ConfidenceDistribution:
        """P(C | q, a): how probable each level is when the model has given this answer to this question."""
        asked = _question(question)
        return self._confidences(asked, [self._put(asked, answer)])[0]

    def contrast(self, question: str | Question, right: str | None, wrong: str | None) -> "Contrast":
        """The confidence after one answer beside that after another, with the noise that looks alone would make."""
        asked = _question(question)
        answers = self._put(asked, right), self._put(asked, wrong)
        variants = surface_variants(answers[0])
        first, second, *others = self._confidences(asked, [*answers, *variants])
        noise = float(np.mean([divergence(first, other) for other in others])) if others else None
        return Contrast(asked.text, answers, (first, second), divergence(first, second), noise)

    def diagnose(
        self,
        data: "str | Iterable[Question | Mapping[str, Any]] | DataFrame",
        *,
        instruments: str | Sequence[str] | None = None,
        n: int = 48,
        wrong: WrongName = "branched",
        candidates: int = 8,
        seed: int = 0,
        out: str | Path | None = None,
        cases: "Result | str | Path | None" = None,
        **options: Any,
    ) -> "Result":
        """What the instruments measure on the first questions that the model answers right.

        Args:
            data: as `interp.questions` takes them.
            instruments: which of jsd, rollout, masking, attribution, flow, probe, steering and those of other packages;
                by default the first four, and other packages'.
            n: how many questions, at most.
            wrong: where wrong answers come from: branched, sampled or distractor.
            candidates: distinct answers to a question whose pairwise divergence is measured.
            seed: decides everything that is drawn by chance.
            out: the run's directory, so that it can be continued, redrawn and compared later; by default nothing is
                left on disk.
            cases: an earlier result, or its directory, of another model on the same questions: its right and wrong
                answers are put to this one, so that `compare` pairs both answer by answer.
            **options: any other option of `python -m interp.diagnose`, such as `n_attribution`.

        Raises:
            TypeError: for an option that the command does not have.
            UserError: where no question is answered right, and for what an instrument cannot do on this model.
        """
        _refuse_fixed(options)
        chosen = _instruments_chosen(instruments)
        _refuse_unknown("wrong", wrong, get_args(WrongName))
        asked = questions(data, seed=seed)
        if not asked:
            raise UserError("no questions: nothing to measure")
        with tempfile.TemporaryDirectory() as folder:
            sought = WrongAnswers.candidates if wrong == "distractor" else candidates
            command = composed(
                Diagnose,
                **{"tries": max(candidates, 48)} | self._as_options() | options,
                ckpt=self.checkpoint.name,
                data=str(data) if isinstance(data, str | Path) else IN_MEMORY,
                n=n,
                format=self.format,
                shots=self.shots,
                wrong=wrong,
                candidates=sought,
                seed=seed,
                out=Path(out or Path(folder) / "run"),
                cases=cases._written(Path(folder) / "cases") if isinstance(cases, Result) else cases and Path(cases),
            )
            checkpoint = self._identified(out is not None)
            folder_of_run = diagnosed(command, chosen, "diagnose", checkpoint, questions=asked)
            config, summary, records = runs.read_run(folder_of_run)
            return Result(config, summary, tuple(records))

    def evaluate(
        self,
        data: "str | Iterable[Question | Mapping[str, Any]] | DataFrame",
        *,
        methods: str | Sequence[str] = "default",
        formats: str | Sequence[str] | None = None,
        n: int = 200,
        seed: int = 0,
        out: str | Path | None = None,
        **options: Any,
    ) -> "Calibration":
        """How well this model's confidences agree with what turns out right, on its own answers.

        Args:
            data: as `interp.questions` takes them.
            methods: which of default, self-consistency, p-true, sequence, question-only, prompting, recalibrated and
                those of other packages.
            formats: how confidence is stated; by default in the model's format.
            n: how many questions, at most.
            seed: decides everything that is drawn by chance.
            out: the run's directory, so that it can be continued and redrawn later; by default nothing is left on disk.
            **options: any other option of `python -m interp.evaluate`, such as `samples` or `rule`.

        Raises:
            TypeError: for an option that the command does not have.
            UserError: for a method or a format that is none, and where there are no questions.
        """
        _refuse_fixed(options)
        asked = questions(data, n, seed=seed)
        if not asked:
            raise UserError("no questions: nothing to measure")
        name = str(data) if isinstance(data, str | Path) else IN_MEMORY
        with tempfile.TemporaryDirectory() as folder:
            command = composed(
                Evaluate,
                **self._as_options() | options,
                ckpt=(self.checkpoint.name,),
                data=(name,),
                methods=_listed(methods),
                formats=_listed(formats or self.format),
                n=n,
                shots=self.shots,
                seed=seed,
                out=Path(out or folder),
            )
            checkpoint = self._identified(out is not None)
            return _calibration(evaluated(command, held={checkpoint.name: checkpoint}, questions={name: asked}))

    def _as_options(self) -> dict[str, Any]:
        """What is added to the model, as options of the commands."""
        return {"steer": self.added.steer, "steer_dose": self.added.steer_dose}

    def _identified(self, resumable: bool) -> "Checkpoint":
        """The checkpoint, with a fingerprint of its weights where a run on disk must know them again."""
        checkpoint = self.checkpoint
        if checkpoint.fingerprint or not resumable:
            return checkpoint
        import torch

        from interp.models.checkpoints import active_adapters

        settings = [str(config) for config in getattr(checkpoint.model, "peft_config", {}).values()]
        digest = hashlib.sha256("|".join([*settings, *active_adapters(checkpoint.model)]).encode())
        for weights in checkpoint.model.state_dict().values():
            digest.update(weights.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return replace(checkpoint, fingerprint=digest.hexdigest()[:12])

    def _prepared(self, choices: bool) -> "Setting":
        from interp.models.setting import prepared

        _refuse_training(self.checkpoint.model)
        confidence = FORMATS[self.format]
        setting = prepared(
            self.checkpoint,
            confidence,
            shots=self.shots,
            choices=choices,
            check=self._check,
            steering=self._steering,
        )
        self._check = setting.check
        return setting

    def _put(self, question: Question, answer: str | None) -> str:
        """The answer as `diagnose` puts it: one line; of a choice named in more words the letter."""
        text = (answer or "").strip()
        if not text or "\n" in text:
            raise UserError(f"{answer!r} cannot be put into the prompt as an answer: it must be one line of text")
        named = choice_index(text, question.choices) if question.choices else None
        return text if named is None else LETTERS[named]

    def _confidences(self, question: Question, answers: Sequence[str]) -> list[ConfidenceDistribution]:
        setting = self._setting(bool(question.choices))
        for answer in answers:
            if not setting.prompter.speakable(question, answer):
                raise UserError(f"{answer!r} cannot be put into the prompt as an answer")
        transcripts = [setting.prompter.transcript(question, answer) for answer in answers]
        return [reading.distribution for reading in setting.reader.readings(transcripts)]


FIXED = ("device", "dtype", "device_map", "quantization", "trust_remote_code", "dry_run", "shots", "format", "formats")
"""Options of the commands that a model in memory has decided already, or that have no meaning for it."""


def _refuse_fixed(options: Mapping[str, Any]) -> None:
    if given := [name for name in FIXED if name in options]:
        raise TypeError(
            f"{given[0]!r} is decided when the model is loaded, by interp.load, or is no option from Python"
        )


def _listed(names: str | Sequence[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _show_figures() -> None:
    """Lets a notebook show figures that a cell ends with, which it does by itself only where pyplot was imported."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        from IPython.core.pylabtools import select_figure_formats

        select_figure_formats(shell, {"png"})


def _question(question: str | Question) -> Question:
    """Whether an answer is right is not asked here, so that a text alone will do."""
    if isinstance(question, str) and not question.strip():
        raise UserError("the question has no text")
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
        expected = ", ".join(f"{answer!r} {confidence.expected:.3f}" for answer, confidence in sides)
        noise = "" if self.noise_floor is None else f", noise floor {self.noise_floor:.2g}"
        return f"Contrast({expected}; JSD {self.jsd:.2g}{noise})"

    def _repr_html_(self) -> str:
        sides = zip(self.answers, self.confidences, strict=True)
        cells = ((escape(answer), confidence._repr_html_()) for answer, confidence in sides)
        rows = "".join(f"<tr><th>{answer}</th><td>{distribution}</td></tr>" for answer, distribution in cells)
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
            measures = ", ".join(dict.fromkeys(record["measure"] for record in self.all_records))
            raise UserError(f"this run has no records of {measure!r}; it has {measures}")
        plain = [
            {key: value for key, value in record.items() if isinstance(value, str | int | float | bool | None)}
            | record.get("values", {})
            for record in ours
        ]
        return DataFrame(plain).set_index("id")

    def plot(self, name: str = "jsd") -> "Figure":
        """The figure of an instrument, or by its file name any other of the run: `jsd_likelihood`, `tokens_1`.

        Raises:
            UserError: where what it shows was not measured.
        """
        from figures import tokens
        from figures.page.diagnosis import pages_of, run_data
        from figures.style import paper

        _show_figures()
        name = {"likelihood": "jsd_likelihood", "tokens": "tokens_1"}.get(name, name)  # their names in version 0.1
        run = run_data(self.config, self.summary, self.all_records)
        with paper():
            pages: Iterator[Page] = (page for instrument in INSTRUMENTS.values() for page in pages_of(instrument, run))
            if name in INSTRUMENTS:
                pages = pages_of(INSTRUMENTS[name], run)
            elif name.startswith("tokens"):
                pages = tokens.pages(run)
            page = next((page for page in pages if name in INSTRUMENTS or page.name == name), None)
        if page is None:
            raise UserError(f"{name} was not measured in this run, or is no figure of one")
        return page.figure

    def report(self, path: str | Path = REPORT) -> Path:
        """Writes the run as one page, which needs no server and no network: verdict, figures, tables, every question.

        Args:
            path: the file; one that is there is replaced.

        Returns:
            The file.

        Raises:
            UserError: where it cannot be written.
        """
        return _reported(path, "diagnose", self.config, self.summary, self.all_records)

    def compare(self, after: "Result", primary: str = PRIMARY) -> "Comparison":
        """This run and another: each number before and after, and the paired difference on the questions of both.

        Whose questions they are was decided when the runs were made. Where `after` was measured with `cases=` this one,
        they are questions that this run's model answers right, which favours it, and both models were given its right
        and wrong answers. Where this run was measured with `cases=after`, they are those that the other model answers
        right, as with `interp.compare --answered-by after`. Otherwise each run keeps the answers that it was measured
        with, by default its own model's, and only the questions are paired: those of both runs.

        Args:
            after: the other run.
            primary: the outcome that was named beforehand, by its key; the p-values of the other headline numbers are
                corrected for their count.

        Raises:
            UserError: where `primary` is no headline number, where they share no instrument or question, or differ in
                format or in what an id stands for.
        """
        refuse_unknown("primary", primary, sorted(headline_keys()))
        shared = [name for name in INSTRUMENTS if name in self.summary and name in after.summary]
        if not shared:
            raise UserError("the two runs share no instrument")
        if self.summary["format"] != after.summary["format"]:
            raise UserError(f"formats differ: {self.summary['format']} and {after.summary['format']}")
        texts = [side._texts(shared) for side in (self, after)]
        both = sorted(texts[0].keys() & texts[1].keys())
        if not both:
            raise UserError("the two runs share no question")
        if unlike := [identity for identity in both if texts[0][identity] != texts[1][identity]]:
            raise UserError(f"the id {unlike[0]!r} stands for two questions; give ids that tell them apart")
        records = self.all_records, after.all_records
        numbers = {key: row for name in shared for key, row in paired_records(records, name).items()}
        corrected(numbers, primary)
        models = {"before": self.summary["model"], "after": after.summary["model"]}
        summary = {"models": models, "data": after.summary["data"], "format": self.summary["format"]}
        return Comparison(summary | {"answered_by": None, "comparison": numbers, "primary": primary}, records)

    def _written(self, folder: Path) -> Path:
        """The run on disk, for those who read it there."""
        folder.mkdir()
        for name, content in (("config", self.config), ("summary", self.summary)):
            (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        lines = (json.dumps(record) + "\n" for record in self.all_records)
        (folder / "records.jsonl").write_text("".join(lines), encoding="utf-8")
        return folder

    def _texts(self, instruments: Sequence[str]) -> dict[str, str]:
        """The text of each question that these instruments have measured, by its id."""
        measured = {record["id"] for record in self.all_records if record["measure"] in instruments}
        asked = (typed(AnswerRecord, record) for record in self.all_records if record["measure"] == "answer")
        return {answer.id: answer.question for answer in asked if answer.id in measured}

    def __repr__(self) -> str:
        model, data = self.summary["model"]["name"], self.summary["data"]
        head = f"Result({model!r} on {data['name']!r}: {data['right']} of {data['asked']} right)"
        return f"{head}\n{self._rows.to_string(float_format=SHORT)}"

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self).partition(chr(10))[0])}</p>{self._rows.to_html(float_format=SHORT)}"


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two runs set side by side; made by `Result.compare`, or read from a run of `interp.compare`."""

    summary: Record = field(repr=False)
    """Every number before and after with the paired difference, as in summary.json."""
    records: tuple[Sequence[Record], Sequence[Record]] = field(repr=False)
    """The records of both runs."""

    @cached_property
    def _rows(self) -> "DataFrame":
        from pandas import DataFrame

        from figures.table import compared_numbers, metrics

        numbers = compared_numbers(self.summary)
        rows = []
        for metric in metrics():
            if metric.key in numbers:
                row, change = numbers[metric.key], numbers[metric.key]["difference"]
                sides = {side: row[side]["value"] for side in ("before", "after")}
                named = {"section": metric.section, "number": metric.words, "key": metric.key} | sides
                interval = {"difference": change["value"], "low": change["low"], "high": change["high"]}
                tested = {"effect size": row["effect_size"], "p": row.get("p_holm", row.get("p"))}
                rows.append(named | interval | tested | {"n": change["n"]})
        return DataFrame(rows).set_index(["section", "number"])

    def table(self) -> "DataFrame":
        """The numbers of the printed table: both values, the paired difference with its 95 % interval, the effect size
        of means, and the p-values of headline numbers, by Holm's correction but for the primary one."""
        return self._rows.copy()

    def plot(self, name: str = "jsd") -> "Figure":
        """An instrument's figure of both runs, or `tokens_1`, ...: a prompt shaded by attribution, before above after.

        Raises:
            UserError: where both runs do not have it.
        """
        from figures import compare
        from figures.style import paper

        _show_figures()
        with paper():
            for page in compare.pages(self.records, self.summary):
                if page.name == f"compare_{name}":
                    return page.figure
        raise UserError(f"{name} was not measured in both runs, or is no figure of a comparison")

    def report(self, path: str | Path = REPORT) -> Path:
        """Writes the comparison as one page, every question side by side; as `Result.report`."""
        return _reported(path, "compare", {}, self.summary, sides=self.records)

    def __repr__(self) -> str:
        before, after = (self.summary["models"][side]["name"] for side in ("before", "after"))
        return f"Comparison({before!r}, {after!r})\n{self._rows.drop(columns='key').to_string(float_format=SHORT)}"

    def _repr_html_(self) -> str:
        head = escape(repr(self).partition("\n")[0])
        return f"<p>{head}</p>{self._rows.drop(columns='key').to_html(float_format=SHORT)}"


@dataclass(frozen=True, eq=False)
class Calibration:
    """A finished evaluation; made by `Model.evaluate`, or read from a run of `interp.evaluate`."""

    summary: Record = field(repr=False)
    """Every number, as in summary.json."""
    all_records: tuple[Record, ...] = field(repr=False)
    """One for each question and asking."""
    config: Record = field(repr=False, default_factory=dict)
    """What was run."""

    def table(self) -> "DataFrame":
        """A row for each measure of each checkpoint, data set, method and format: value, 95 % interval, count."""
        from pandas import DataFrame

        from figures.calibration import grid

        table = grid(self.summary)
        rows = []
        for names, estimates in table.rows:
            for column, estimate in zip(table.columns, estimates, strict=True):
                labels = dict(zip(table.labels[:4], names, strict=False)) | {"measure": column.title}
                interval = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
                rows.append(labels | interval | {"n": estimate.n, "left out": estimate.left_out})
        return DataFrame(rows).set_index([*table.labels[:4], "measure"])

    def plot(self, name: str = "reliability") -> "Figure":
        """confidence: that of right and of wrong answers (Figure 1). reliability: accuracy by level (Figure 5). cost:
        calibration error against tokens, where more than two methods were run.

        Raises:
            UserError: where the run does not have it.
        """
        from figures import calibration
        from figures.style import paper

        names = {"confidence": "figure_1_confidence", "reliability": "figure_5_reliability", "cost": "ece_tokens"}
        _refuse_unknown("figure", name, names)
        _show_figures()
        with paper():
            for page in calibration.pages(self.all_records, self.summary):
                if page.name.startswith(names[name]):
                    return page.figure
        raise UserError(f"{name}: this run does not have what it shows")

    def report(self, path: str | Path = REPORT) -> Path:
        """Writes the evaluation as one page: reliability, risk and coverage, tables, replies; as `Result.report`."""
        return _reported(path, "evaluate", self.config, self.summary, self.all_records)

    @cached_property
    def _shown(self) -> "DataFrame":
        from pandas import DataFrame

        from figures.calibration import SHORT as HEADLINES
        from figures.calibration import grid

        table = grid(self.summary, HEADLINES)
        return DataFrame(table.shown(), columns=list(table.header))

    def __repr__(self) -> str:
        return f"Calibration, in per cent\n{self._shown.to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>In per cent, with 95 % intervals.</p>{self._shown.to_html(index=False)}"


def _reported(
    path: str | Path,
    kind: runs.RunKind,
    config: Record,
    summary: Record,
    records: Sequence[Record] = (),
    sides: tuple[Sequence[Record], Sequence[Record]] = ((), ()),
) -> Path:
    """Writes a run in memory as one page. The parameters are those of `figures.page.build.FinishedRun`."""
    from figures.page.build import FinishedRun, report_of
    from figures.page.write import written

    return written(Path(path), [report_of(FinishedRun(kind, "", config, summary, records, sides))])


def _calibration(folder: Path) -> Calibration:
    config, summary, records = runs.read_run(folder)
    return Calibration(summary, tuple(records), config)


def read_run(folder: str | Path) -> Result | Comparison | Calibration:
    """A finished run on disk: of `interp.diagnose`, `interp.compare` or `interp.evaluate`.

    Raises:
        UserError: where it is none.
    """
    path = Path(folder)
    config, summary, records = runs.read_run(path)
    kind = runs.kind_of(config, summary)
    if kind == "compare":
        before, after = (tuple(runs.read_records(path / side)) for side in ("before", "after"))
        return Comparison(summary, (before, after))
    if kind == "evaluate":
        return Calibration(summary, tuple(records), config)
    if kind != "diagnose":
        raise UserError(f"{folder}: no run of interp.diagnose, interp.compare or interp.evaluate")
    return Result(config, summary, tuple(records))
