"""Before and after a training, side by side on the same axes: each instrument's own drawing twice, and the table."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from figures import attribution, jsd, masking, rollout, tokens
from figures.captions import LETTERS_SAID, Page, in_words, written_caption
from figures.grid import Column, Grid
from figures.style import DOUBLE
from figures.table import SECTIONS
from interp.errors import UserError
from interp.intervals import Estimate
from interp.run.runs import Record

COLUMNS = tuple(
    Column(key, title, scale=1.0, places=places)
    for key, title, places in (
        ("before", "before", None),
        ("after", "after", None),
        ("difference", "after less before", None),
        ("effect_size", "effect size", 2),
    )
)
SIDE_TITLES = ("before", "after")
FILLER = "mean"
"""The way of hiding the answer under which the confidence distributions are drawn."""

Pair = tuple[Sequence[Record], Sequence[Record]]
"""The records of both runs."""


def instruments_grid(summary: Record) -> Grid:
    """The numbers of the four instruments that a reader asks for first."""
    found = summary["comparison"]
    named = [(section, words, key) for section, names in SECTIONS.items() for key, words in names.items()]
    return Grid(
        ("number", "of"),
        COLUMNS,
        tuple(((section, words), _cells(found[key])) for section, words, key in named if key in found),
    )


def calibration_grid(summary: Record) -> Grid:
    """Calibration by data, method, format and measure."""
    rows = [
        ((data, method, form, name), _cells(numbers))
        for data, by_method in summary["calibration"].items()
        for method, by_format in by_method.items()
        for form, measures in by_format.items()
        for name, numbers in measures.items()
    ]
    return Grid(("data", "method", "format", "measure"), COLUMNS, tuple(rows))


def _cells(numbers: Record) -> tuple[Estimate, ...]:
    change = Estimate(**numbers["difference"])
    size = Estimate(numbers["effect_size"], None, None, change.n, change.left_out)
    return Estimate(**numbers["before"]), Estimate(**numbers["after"]), change, size


def sentence(summary: Record) -> str:
    """Whose numbers they are."""
    models, data = summary["models"], summary["data"]
    note = f" ({models['before']['note']})" if models["before"]["note"] else ""
    chosen = f" {LETTERS_SAID}" if data.get("wrong_answers") == "choice" else ""
    return (
        f"Before: {models['before']['name']}{note}. After: {models['after']['name']}. Data: {data['name']}, "
        f"{data['asked']} asked, {data['right']} answered right before training. Format: {summary['format']}.{chosen}"
    )


def pages(records: Pair, summary: Record, questions: Sequence[str] = ()) -> Iterator[Page]:
    """The figures of a comparison, of the instruments that both runs have measured.

    questions: whose tokens are shown, by default the first two attributed ones."""
    for name, page in PAGES.items():
        if all(_of(name, side) for side in records):
            yield page(records, summary)
    yield from _token_pages(records, summary, questions)


def _page(
    name: str, draw: Callable[[int, Axes], object], how: str, sections: Sequence[str], summary: Record, height: float
) -> Page:
    """Two axes side by side. draw: draws the first or the second run."""
    figure = Figure((DOUBLE, height), layout="constrained")
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for number, ax in enumerate(axes):
        draw(number, ax)
        ax.set_title(f"{'ab'[number]}  {SIDE_TITLES[number]}")
    axes[1].set_ylabel("")
    return Page(name, figure, written_caption(how, _numbers(summary, sections), sentence(summary)))


def _confidence_page(records: Pair, summary: Record) -> Page:
    sides = [masking.maskings(_of("masking", side), summary["format"]) for side in records]
    hidden = [next(one for one in side.hidden if one.name == FILLER) for side in sides]
    return _page(
        "compare_confidence",
        lambda i, ax: masking.draw_levels(hidden[i], sides[0].levels, ax),
        "The mean confidence distribution with the answer in sight (bars) and with its tokens replaced by the mean "
        "embedding (line). A line on the bars means that the confidence does not need the answer.",
        ("Expected confidence", "Its drop when the answer is hidden"),
        summary,
        2.0,
    )


def _rollout_page(records: Pair, summary: Record) -> Page:
    flows = [rollout.rollouts(_of("rollout", side)) for side in records]
    return _page(
        "compare_rollout",
        lambda i, ax: rollout.draw_pairs(flows[i].mass, ax).set(xlabel="rollout mass"),
        "Attention rollout read at the confidence, by span (dots), beside uniform attention (diamonds). Attention "
        "alone: a dependence that training built in values and MLPs does not show here.",
        ("Rollout mass", "Rollout mass, first token left out", "Rollout mass per token"),
        summary,
        2.0,
    )


def _attribution_page(records: Pair, summary: Record) -> Page:
    effects = [attribution.attributions(_of("attribution", side), _of("answer", side)) for side in records]
    return _page(
        "compare_attribution",
        lambda i, ax: attribution.draw_effects(effects[i], ax),
        "What replacing a part of the prompt by a filler takes away from the score at the confidence; marks are means "
        "over questions, shapes fillers, bars 95 % intervals.",
        ("Effect on the score at the confidence", "Attribution of the answer"),
        summary,
        2.2,
    )


def _divergence_page(records: Pair, summary: Record) -> Page:
    """Figure 2 of both sides, a row for each kind of comparison that both have."""
    sides = [jsd.divergences(_of("jsd", side)) for side in records]
    kinds = [kind for kind in sides[0].spreads if kind in sides[1].spreads] or ["jsd"]
    figure = Figure((DOUBLE, 0.7 + 1.15 * len(kinds)), layout="constrained")
    grid = figure.subplots(len(kinds), 2, sharey="row", squeeze=False)
    for row, (kind, axes) in enumerate(zip(kinds, grid, strict=True)):
        for number, (side, ax) in enumerate(zip(sides, axes, strict=True)):
            jsd.draw_divergence(side, ax, kind)
            ax.set_title(f"{chr(97 + 2 * row + number)}  {SIDE_TITLES[number]}: {jsd.KINDS[kind]}")
            ax.set(xlabel="JSD of the confidence (nats)" if row == len(kinds) - 1 else "")
        axes[1].set_ylabel("")
    how = "The divergence between the confidences after two answers, by where the wrong answer comes from: "
    how += jsd.HOW_TO_READ.partition("Above: ")[2].partition("Below: ")[0]
    sections = [name for name in SECTIONS if name.startswith(("JSD", "Direction"))]
    return Page("compare_jsd", figure, written_caption(how, _numbers(summary, sections), sentence(summary)))


PAGES: dict[str, Callable[[Pair, Record], Page]] = {
    "jsd": _divergence_page,
    "masking": _confidence_page,
    "rollout": _rollout_page,
    "attribution": _attribution_page,
}
"""By instrument."""


def _of(name: str, records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record["measure"] == name]


def _numbers(summary: Record, sections: Sequence[str]) -> dict[str, str]:
    found = {}
    for section in sections:
        for key, words in SECTIONS[section].items():
            if numbers := summary["comparison"].get(key):
                before, after, change = (in_words(one) for one in _cells(numbers)[:3])
                found[f"{section}: {words}"] = f"before {before}; after {after}; difference {change}"
    return found


def _token_pages(records: Pair, summary: Record, questions: Sequence[str]) -> Iterator[Page]:
    """One question's prompt shaded by attribution, before above after, on one scale."""
    by_key = [{(r["measure"], r["id"]): r for r in side if r["set"] == 0} for side in records]
    both = [key for name, key in by_key[0] if name == "attribution" and ("attribution", key) in by_key[1]]
    for number, key in enumerate(questions or both[: tokens.SHOWN], 1):
        if key not in both:
            raise UserError(f"--questions {key}: not attributed in both runs")
        prompts = [tokens.shaded_prompt(side["answer", key], None, side["attribution", key]) for side in by_key]
        limit = max(prompt.shadings[0].limit for prompt in prompts)
        shadings = tuple(
            replace(prompt.shadings[0], title=f"{title.capitalize()}: {prompt.shadings[0].title}", limit=limit)
            for title, prompt in zip(SIDE_TITLES, prompts, strict=True)
        )
        prompt = replace(prompts[0], shadings=shadings)
        how = (
            "One prompt, shaded by what each token does to the score at the confidence: green raises it, purple "
            "lowers it. Above before, below after training, with the same colours for the same numbers."
        )
        caption = written_caption(how, tokens.numbers_of(prompt, key), sentence(summary))
        yield Page(f"compare_tokens_{number}", tokens.figure_of(prompt), caption)
