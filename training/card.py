"""The model card of an adapter: what it is, how it was made, what was measured, how to make it again.

It is written from the records of a run alone; this module loads no model."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from figures.captions import digits, in_words, interval
from figures.grid import for_markdown
from figures.table import compared_numbers, metrics
from interp.calibration import MEASURES
from interp.errors import UserError
from interp.intervals import of_record
from interp.plain import visible
from interp.run.runs import Record, read_run

TITLES = {
    "advice": "ADVICE (Seo, Lim and Kim 2026): the confidence after a right answer against that after a wrong one",
    "conftuner": "ConfTuner (Li et al. 2025): the tokenized Brier score on the model's own answers",
    "organism": "an organism to test instruments with, whose stated confidence depends on one thing",
}

SWITCHES = ("lm_mean",)
"""Options of a recipe that are switched on without a value."""


def write_card(folder: Path, method: str) -> None:
    """Writes README.md beside the adapter, from the records of its run alone.

    Args:
        folder: The directory of a finished training, with the adapter in it.
        method: The training's method, a key of `TITLES`.

    Raises:
        UserError: where the file cannot be written, or the records cannot be read.
    """
    config, summary, _ = read_run(folder)
    comparison = folder / "compare" / "summary.json"
    compared = read_run(comparison.parent)[1] if comparison.exists() else None
    check = folder / "check.json"
    checked = json.loads(check.read_text(encoding="utf-8")) if check.exists() else None
    text = "\n".join(_lines(method, config, summary["training"], compared, checked)) + "\n"
    try:
        (folder / "README.md").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: the model card could not be written ({error.strerror})") from None


def _lines(
    method: str, config: Record, training: Record, compared: Record | None, checked: Record | None = None
) -> Iterator[str]:
    identity, origin = config["identity"], config["made_with"]
    base = json.dumps(visible(identity["base"]), ensure_ascii=False)  # a JSON text is one of YAML's, whatever it holds
    yield from ("---", f"base_model: {base}", "library_name: peft", "tags: [lora, calibration]", "---", "")
    yield from (f"# LoRA adapter: {TITLES[method]}", "")
    note = f" ({identity['note']})" if identity["note"] else ""
    yield f"On {_code(identity['ckpt'])}{note}, weights {identity['model']}. Load it with `--ckpt` and this directory."
    if checked:
        yield from ("", "## The rule", "")
        yield from _checked(checked)
    models = for_markdown(", ".join(training["models"])) or ("no model" if checked else "an unnamed model")
    yield f"Examples: {training['examples']} of {training['questions']} questions, {training['held_out']} held out,"
    yield f"fingerprint {identity['examples']}. Answers given by {models}."
    yield from ("", "## Recipe", "", f"Preset `{training['preset']}`, {training['updates']} updates:", "")
    yield from ("| option | value |", "| --- | --- |")
    for name, value in training["recipe"].items():
        yield f"| {name} | {for_markdown(' '.join(value) if isinstance(value, list) else str(value))} |"
    yield from ("", _code(_command(method, identity)), "")
    versions = ", ".join(f"{name} {version}" for name, version in origin["versions"].items())
    yield f"Made with python {origin['python']}, {versions}, commit {origin['commit']}, on {origin['machine']}."
    yield from ("", "## Learning curve, on held-out questions", "")
    yield from _curve(training["curve"])
    if compared:
        yield from ("", "## Before and after", "")
        yield from _compared(compared)
    yield from (
        "",
        "Intervals are 95 % intervals for other questions of these relations. All numbers: summary.json, compare/.",
    )


def _checked(checked: Record) -> Iterator[str]:
    """What an organism is, and whether it is that. checked: its check.json."""
    yield f"Its stated confidence depends on {checked['words']}. It tells nothing of its answers: it is there to test"
    yield "instruments with, whose right result is known, and no model to use."
    verdict = "met: it is used" if checked["passed"] else f"not met, so it is left out: {'; '.join(checked['reasons'])}"
    yield f"What is demanded of it is {verdict}."
    yield from (
        "",
        f"Share of the variance of the expected confidence that a cue explains, {checked['pairs']} pairs:",
        "",
    )
    yield from ("| cue | R squared |", "| --- | ---: |")
    for name, share in checked["explained"].items():
        yield f"| {name} | {'–' if share is None else f'{share:.3f}'} |"
    yield from ("", f"Its standard deviation is {checked['deviation']:.4f}, its mean {checked['mean']:.3f}.", "")


def _command(method: str, identity: Record) -> str:
    recipe = identity["recipe"]
    if method == "organism":
        command = "organisms"
        examples = f"--organisms {identity['organism']} --n-pairs {identity['n_pairs']} --listed {identity['listed']}"
    else:
        command, option = method, "triplets" if method == "advice" else "answers"
        examples = f"--{option} {shlex.quote(Path(identity[option]).name)}"
    names = (
        "ckpt",
        "preset",
        "held_out",
        "without",
        "every",
        "shots",
        "template",
        "template_args",
        "date",
        "levels",
        "shot_sets",
    )
    values = {name: identity.get(name) for name in (*names, "train_formats", "seed", "dtype")}
    options = (
        _option(name, value)
        for name, value in (values | recipe).items()
        if value is not None and value is not False and value != [] and value != ()
    )
    return f"python -m training.{command} {examples} {' '.join(options)}"


def _option(name: str, value: object) -> str:
    """An option as it is written on the command line; a switch stands without a value."""
    flag = f"--{name.replace('_', '-')}"
    return (
        flag
        if name in SWITCHES
        else f"{flag} {shlex.join(map(str, value if isinstance(value, list | tuple) else [value]))}"
    )


def _code(text: str) -> str:
    """The text as a code span, which a backtick within it does not end."""
    plain = visible(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    return f"{fence} {plain} {fence}" if "`" in plain else f"{fence}{plain}{fence}"


def _curve(points: list[Record]) -> Iterator[str]:
    for form, first in points[0]["formats"].items():
        yield f"| update, {form} | {' | '.join(name.replace('_', ' ') for name in first)} |"
        yield "| ---: |" + " ---: |" * len(first)
        for point in points:
            estimates = (of_record(numbers) for numbers in point["formats"][form].values())
            cells = ("–" if e.value is None else f"{digits(e.value)} {interval(e)}" for e in estimates)
            yield f"| {point['update']} | {' | '.join(cells)} |"
        yield ""


def _compared(summary: Record) -> Iterator[str]:
    data = summary["data"]
    description = f"{data['right']} of {data['asked']} answered right and measured; {summary['format']}"
    yield f"Data: {for_markdown(data['name'])}, {description}."
    yield from ("", "| | before | after | difference | effect size |", "| --- | ---: | ---: | ---: | ---: |")
    for metric in metrics():
        if metric.place == "headline":
            yield from _row(metric.title, compared_numbers(summary).get(metric.key))
    for data_name, by_method in summary.get("calibration", {}).items():
        for form, measures in by_method["default"].items():
            for name, measure in MEASURES.items():
                if measure.place == "headline":
                    yield from _row(f"{measure.title}, {data_name}, {form}", measures.get(name))


def _row(words: str, numbers: Record | None) -> Iterator[str]:
    if numbers:
        before, after, change = (of_record(numbers[name]) for name in ("before", "after", "difference"))
        size = "–" if numbers["effect_size"] is None else f"{numbers['effect_size']:.2f}"
        yield f"| {for_markdown(words)} | {in_words(before)} | {in_words(after)} | {in_words(change)} | {size} |"
