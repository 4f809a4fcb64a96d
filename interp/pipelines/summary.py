"""The summary of a diagnosis from its records: every number of every instrument, and what was left out.

The module reads records and computes numbers. It asks no model."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from interp.instruments.base import relations_of
from interp.instruments.registry import INSTRUMENTS, floors_of, renamed, with_old_keys
from interp.intervals import NOT_NEGATIVE, estimated
from interp.measures import AnswerRecord, DivergenceRecord, SampleRecord
from interp.run.runs import Record, Run, averaged, nested
from interp.run.typed import typed

if TYPE_CHECKING:
    from interp.pipelines.diagnosis import Diagnose


def summary_of(run: Run, instruments: Sequence[str], model: Record, options: "Diagnose") -> Record:
    """The content of summary.json.

    Args:
        run: its records are complete.
        instruments: the names of those that ran.
        model: what the summary says about the model.
        options: those of the diagnosis.

    Returns:
        Every number of the run with its interval, its count and what was left out.
    """
    # transcripts are by far the largest part of the answers' records, and not kept
    answers = [replace(typed(AnswerRecord, record), transcript=None) for record in run.records("answer")]
    flat: dict[str, object] = {
        **{f"model.{name}": value for name, value in model.items()},
        "data.name": options.asked.data,
        "data.asked": len(answers),
        "data.right": sum(answer.right for answer in answers),
        "data.unanswered": sum(answer.answer is None for answer in answers),
        "data.unparsed": sum(answer.parsed is False for answer in answers),
        **_wrong_answers(run, options),
        "format": options.asked.format,
    }
    relations = defaultdict(str, {answer.id: answer.relation for answer in answers})
    flat |= _selection(run, relations)
    floors = floors_of(list(run.all_records()))
    flat |= {key: estimate.as_record() for key, estimate in floors.items()}
    sources = options.prompt.spreads
    spreads: dict[str, dict[str, Record]] = {source: {} for source in sources}
    for name in instruments:
        instrument, records = INSTRUMENTS[name], list[Record]()
        floored = True  # all records of an instrument have the same options, so the last one decides
        for record in run.records(name):
            # records are read one by one, and only this much of each is kept
            records.append(
                {key: record[key] for key in ("set", "id", "values")} | {"relation": relations[record["id"]]}
            )
            floored = instrument.has_floor(record)
        estimates = instrument.estimates(averaged(records), floors, floored=floored)
        flat |= {key: estimate.as_record() for key, estimate in estimates.items()}
        for source, members in sources.items():
            for numbers in members:
                of_member = instrument.estimates(averaged([r for r in records if r["set"] in numbers]), {})
                for key in estimates:
                    value = of_member[key].value if key in of_member else None
                    spreads[source].setdefault(key, {"values": []})["values"].append(value)
    summary = nested(with_old_keys(flat)) | {"renamed": {old: new for old, new in renamed().items() if new in flat}}
    return summary | {source: with_old_keys(spread) for source, spread in spreads.items() if spread}


def _wrong_answers(run: Run, options: "Diagnose") -> Record:
    """Where wrong answers came from, how many questions have no wrong answer, and how many have no sampled one."""
    from interp.pipelines.candidates import sampled_wrong

    samples = [typed(SampleRecord, record) for record in run.records("sample")]
    wrong, chosen = options.wrong_answers.wrong, any("choice" in sample.sources for sample in samples)
    if wrong == "distractor" and not chosen:
        divergences = (typed(DivergenceRecord, record) for record in run.records("jsd"))
        without = sum(not record.answers.get("foil") for record in divergences if record.set == 0)
        return {"data.wrong_answers": wrong, "data.without_wrong_answer": without}
    return {
        "data.wrong_answers": "choice" if chosen else wrong,
        "data.without_wrong_answer": sum(not (sample.wrong or sample.branched) for sample in samples),
        "data.without_sampled_wrong_answer": sum(not sampled_wrong(vars(sample)) for sample in samples),
    }


SOURCES = {"jsd": "sampled", "branched": "branched", "foil": "same_relation"}
"""The sources of wrong answers, by the divergence that needs one."""


def _selection(run: Run, relations: Mapping[str, str]) -> Record:
    """How the questions that have a wrong answer of a source differ from those that have none and are left out.

    Restricting to questions where a wrong answer could be found keeps those that the model is unsure of. For questions
    kept and dropped: their count, the mean log-probability (nats) of the right answer, and the mean entropy (nats) of
    the confidence after it. A source that all questions have, or none, is absent. relations: by the question's id."""
    from scipy.special import entr

    measured = []
    for record in run.records("jsd"):  # one by one: only this much of each is kept
        values = {name: record["values"].get(name) for name in SOURCES}
        for right in record.get("answers", {}).get("right", ())[:1]:
            values |= {"logprob": right["logprob"], "entropy": float(entr(right["probability"]).sum())}
        measured.append({"id": record["id"], "values": values, "relation": relations.get(record["id"], "")})
    questions, flat = averaged(measured), Record()
    for name, source in SOURCES.items():
        sides = {"kept": [q for q in questions if q["values"][name] is not None]}
        sides["dropped"] = [q for q in questions if q["values"][name] is None]
        for side, members in sides.items() if all(sides.values()) else ():
            flat[f"data.selection.{source}.{side}.count"] = len(members)
            for mean, bounds in (("logprob", (-math.inf, 0.0)), ("entropy", NOT_NEGATIVE)):
                if any(mean in q["values"] for q in members):
                    estimate = estimated(
                        [q["values"].get(mean) for q in members], groups=relations_of(members), bounds=bounds
                    )
                    flat[f"data.selection.{source}.{side}.{mean}"] = estimate.as_record()
    return flat
