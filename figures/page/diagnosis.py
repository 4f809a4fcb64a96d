"""A diagnosis in the page: what was measured, the verdict, figures, the table and the questions."""

from collections.abc import Iterator, Mapping, Sequence

from figures import forest
from figures.captions import Page, RunData, Subject, caption, digits, subject_of
from figures.page.content import Report, Shown, Verdict
from figures.page.questions import questions_of
from figures.page.tables import table_of_run
from figures.page.verdict import evidence_of, verdict_of
from figures.table import estimates_of, table_of
from interp.instruments.base import Instrument
from interp.instruments.registry import INSTRUMENTS
from interp.intervals import Estimate
from interp.run.runs import Record, averaged

NO_VERDICT = "none: this run's summary holds no divergence less the noise floor (instrument jsd)"
"""Stands where there is no verdict."""
COMMIT = 12
"""Characters of a commit that are shown."""


def pages_of(instrument: Instrument, run: RunData) -> Iterator[Page]:
    """An instrument's figures.

    Args:
        instrument: The instrument.
        run: The run's records and estimates.

    Yields:
        Its own pages, or a forest plot of its listed numbers where it draws none; nothing where it did not run.
    """
    if not run.has(instrument.name):
        return
    if instrument.pages:
        yield from instrument.pages(run)
        return
    by_unit: dict[str, dict[str, Estimate]] = {}
    for metric in instrument.metrics:
        if metric.place != "kept" and metric.key in run.estimates:
            by_unit.setdefault(metric.unit, {})[metric.title] = run.estimates[metric.key]
    if not by_unit:
        return
    how = f"{instrument.about} {forest.HOW_TO_READ}"
    text = caption(how, forest.numbers_of(by_unit), run.subject)
    yield Page(instrument.name, forest.forest(by_unit), text)


def run_data(config: Record, summary: Record, records: Sequence[Record]) -> RunData:
    """The data from which the figures of a run of `interp.diagnose` are drawn.

    Figures show some numbers that summaries of version 0.1 do not hold: they are estimated from its records."""
    estimates = estimates_of(summary)
    if "version" not in config:
        for name, instrument in INSTRUMENTS.items():
            if measured := [_with_effects(record) for record in records if record["measure"] == name]:
                floored = all(map(instrument.has_floor, measured))
                estimates = instrument.estimates(averaged(measured), estimates, floored=floored) | estimates
    return RunData(records, estimates, subject_of(config, summary))


def _with_effects(record: Record) -> Record:
    """A record with the effects of all replacements among its values, as attributions of today have them."""
    effects = {
        f"{span}.effect_{name}": effect
        for span, by_name in record.get("effects", {}).items()
        for name, effect in by_name.items()
    }
    return {**record, "values": effects | record["values"]}


def diagnosis_report(
    run: RunData, config: Record, summary: Record, figures: Sequence[tuple[str | None, Page]], title: str
) -> Report:
    """The report of a run of `interp.diagnose`, or of one instrument.

    Args:
        run: The run's records and estimates.
        config: Its config.json.
        summary: Its summary.json.
        figures: The run's figures, each with the name of its instrument; None for further ones.
        title: What the run is called.
    """
    verdict, table = verdict_on(run.estimates), table_of_run(table_of(summary))
    return Report(
        "diagnose",
        title,
        facts_of(run.subject, run.estimates, config) | ({} if verdict else {"Verdict": NO_VERDICT}),
        (("", verdict),) if verdict else (),
        shown_figures(figures),
        (table,) if table.rows else (),
        questions_of({"": run}),
    )


def verdict_on(estimates: Mapping[str, Estimate]) -> Verdict | None:
    """The verdict on a run's numbers; None where it did not measure what is asked for."""
    evidence = evidence_of(estimates)
    return verdict_of(evidence) if evidence else None


def facts_of(subject: Subject, estimates: Mapping[str, Estimate], config: Record) -> dict[str, str]:
    """What was measured, and how."""
    identity = config["identity"]
    shots = f"{identity['shots']} worked examples, " if "shots" in identity else ""
    floors = [
        f"{digits(size)} {words}"
        for key, words in (("floor.jsd", "nats of JSD"), ("floor.expected", "of expected confidence"))
        if (size := _largest(estimates.get(key))) is not None
    ]
    facts = {
        "Model": f"{subject.model} ({subject.note})" if subject.note else subject.model,
        "Data": f"{subject.data}: {subject.asked} asked, {subject.right} answered right",
        "Format": subject.format + (", first token on which levels part alone" if subject.levels == "token" else ""),
        "Prompt": f"{shots}{identity.get('template', 'chat')} template",
        "Precision": subject.dtype,
        "Numerical floor": ", ".join(floors) + ": the same text read twice" if floors else "",
        "Made with": made_with(config),
    }
    return {name: text for name, text in facts.items() if text}


def made_with(config: Record) -> str:
    """Versions, commit and machine in one line. config: the run's config.json."""
    made = config.get("made_with", {})
    commit, _, changed = (made.get("commit") or "").partition(" ")
    heads = (f"version {config.get('version', '0.1')}", f"commit {commit[:COMMIT]} {changed}".strip() if commit else "")
    versions = ", ".join(f"{name} {number}" for name, number in made.get("versions", {}).items())
    return "; ".join(filter(None, (", ".join(filter(None, heads)), versions, made.get("machine", ""))))


def _largest(floor: Estimate | None) -> float | None:
    ends = (floor.value, floor.low, floor.high) if floor else ()
    return max((abs(end) for end in ends if end is not None), default=None)


def shown_figures(figures: Sequence[tuple[str | None, Page]]) -> tuple[Shown, ...]:
    """The figures with their headings; the first one of each instrument is a headline.

    Args:
        figures: Each figure with the name of its instrument; None for one that belongs to none.
    """
    seen = set[str | None]({None})
    shown = []
    for name, page in figures:
        first = name not in seen
        seen.add(name)
        title = INSTRUMENTS[name].about.rstrip(".") if first and name else page.name.replace("_", " ").capitalize()
        shown.append(Shown(page, title, headline=first))
    return tuple(shown)
