"""Figures: what is drawn is what was measured. `made_run` is a run on disk with numbers of our own."""

import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from figures import attribution, jsd, likelihood, masking, rollout, tokens
from figures.captions import Page, RunData, Subject, digits, subject_of
from figures.page.diagnosis import pages_of
from figures.style import SINGLE, nth_style, paper, printable, saved
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments.jsd import values as jsd_values
from interp.instruments.masking import HIDDEN
from interp.instruments.registry import INSTRUMENTS as REGISTRY
from interp.instruments.registry import floors_of
from interp.measures import AnswerRecord, RolloutRecord
from interp.options import composed
from interp.pipelines.diagnosis import Diagnose
from interp.pipelines.summary import summary_of
from interp.run.runs import Run, averaged
from interp.run.typed import typed

INSTRUMENTS = ("jsd", "rollout", "masking", "attribution")
SUBJECT = Subject("a-model", "weights were quantised to 4 bits", "facts", 64, 35, "ScoreNumber")
FACTS = (
    ("What is the capital of France?", "Paris", "Lyon"),
    ("What is the chemical symbol of radium?", "Ra", "Radium"),
    ("Which currency is used in Sweden?", "Swedish krona", "Euro"),
    ("In which country is Semarang?", "Indonesia", "Malaysia"),
    ("How much is a dime worth, in $?", "$0.10 or ten cents", "$0.25"),
    ("Welche Sprache spricht man in 日本?", "Japanese", "Chinese"),
)
SPECIAL, QUESTION, SHOTS = "special", "question", "shots"
SHOT = (
    ("What is frozen water called?", "Ice", "2"),
    ("What do bees make?", "Honey", "6"),
    ("Is an emerald red?", "No", "4"),
)


def transcript(question: str, answer: str) -> dict:
    """A prompt cut into words, as a record holds it."""
    parts = [
        ("<|im_start|>system\n", SPECIAL),
        (
            "Answer the question as briefly as you can. Then state how confident you are that it is right, as one ",
            "instruction",
        ),
        ("digit from 0 (surely wrong) to 9 (surely right).", "instruction"),
        ("<|im_end|>\n", SPECIAL),
    ]
    for asked, said, level in SHOT:
        parts.append((f"<|im_start|>user\nQuestion: {asked}<|im_end|>\n<|im_start|>assistant\n", SHOTS))
        parts.append((f"Answer: {said}\nConfidence: {level}<|im_end|>\n", SHOTS))
    parts += [("<|im_start|>user\n", SPECIAL), (f"Question: {question}", QUESTION), ("<|im_end|>\n", SPECIAL)]
    parts += [("<|im_start|>assistant\nAnswer:", SPECIAL), (f" {answer}", "answer"), ("\nConfidence:", "tail")]
    pieces = [(p, span) for text, span in parts for p in re.findall(r"<\|\w+\|>|\n| ?[^\s<]+", text)]
    return {
        "text": "".join(text for text, _ in parts),
        "ids": list(range(len(pieces))),
        "tokens": [piece for piece, _ in pieces],
        "spans": [span for _, span in pieces],
    }


def made_records(questions: int = 12, sets: int = 1, form: str = "ScoreNumber", seed: int = 0) -> list[dict]:
    """Records of all instruments; every fourth question has no wrong answer, every fifth attribution is refused."""
    random = np.random.default_rng(seed)
    levels = np.arange(len(FORMATS[form].levels))

    def spoken(answer: str, centre: float) -> dict:
        logits = -0.5 * ((levels / levels[-1] - centre) / 0.22) ** 2 + random.normal(0, 0.15, len(levels))
        probability = np.exp(logits) / np.exp(logits).sum()
        said = {"answer": answer, "probability": probability.tolist(), "outside": 0.2}
        expected = float(probability @ np.array(FORMATS[form].values))
        return said | {"expected": expected, "logprob": -random.exponential(3), "tokens": 1 + len(answer) // 6}

    def reading(answer: str, centre: float) -> dict:
        said = spoken(answer, centre)
        return {name: said[name] for name in ("probability", "outside", "expected")}

    records = []
    for i in range(questions):
        asked, right, wrong = FACTS[i % len(FACTS)]
        key, prompt = f"fact-{i}", transcript(asked, right)
        spans, count, answer = prompt["spans"], len(prompt["ids"]), prompt["spans"].count("answer")
        sampled = [] if i % 4 == 3 else [wrong, "none of them"]
        record = {"id": key, "set": 0, "question": asked, "relation": "made", "accepted": [right], "answer": right}
        records.append({"measure": "answer", **record, "right": True, "tokens": 3, "transcript": prompt})
        records.append(
            {"measure": "sample", "set": 0, "id": key, "wrong": sampled, "distinct": [], "tries": 9, "vetoed": 0}
        )
        for number in range(sets):
            centre = random.normal(0.7 - 0.1 * number, 0.08)
            heads = {"measure": "", "set": number, "id": key}
            roles = {
                "right": [spoken(right, centre)],
                "wrong": [spoken(a, centre - random.exponential(0.05)) for a in sampled],
                "branched": [spoken(a, centre - random.exponential(0.1)) for a in (wrong, "another")],
                "candidate": [spoken(a, centre - random.exponential(0.05)) for a in (right, *sampled)],
                "filled": [spoken("another", centre - random.exponential(0.1))],
            }
            for role, moved in (("noise", 0.0), ("foil", 0.02), ("foreign", 0.1), ("hint", 0.45)):
                roles[role] = [spoken(right, centre - moved)]
            records.append(heads | {"measure": "jsd", "answers": roles, "values": jsd_values(roles)})
            records.append(heads | {"measure": "rollout", **_rollout(spans, random)})
            ways = {"neutral": 0.02, "mean": 0.04, "confidence_to_answer": 0.0, "later_to_answer": 0.05}
            seen = reading(right, centre)
            hidden = {name: reading("", centre - moved) for name, moved in ways.items()}
            values = {"seen": seen["expected"]}
            for name, one in hidden.items():
                values |= {f"{name}.masked": one["expected"], f"{name}.drop": seen["expected"] - one["expected"]}
            records.append(heads | {"measure": "masking", "seen": seen, "masked": hidden, "values": values})
            records.append(heads | {"measure": "attribution", **_attribution(spans, count, answer, i % 5 == 4, random)})
    return records


def _rollout(spans: list[str], random: np.random.Generator) -> dict:
    spans = [*spans, "tail"]
    falling = np.geomspace(1, 1e-5, len(spans))
    weights = {"confidence": falling * random.lognormal(0, 0.8, len(spans)), "answer": falling.copy()}
    null = {"confidence": falling.copy(), "answer": falling.copy()}
    last = max(i for i, span in enumerate(spans) if span == "answer")
    values = {}
    for row in weights:
        for kind in (weights, null):
            kind[row][last + 1 :] *= row == "confidence"
            kind[row] /= kind[row].sum()
    for row, prefix in (("confidence", ""), ("answer", "from_answer.")):
        for span in dict.fromkeys(spans):
            there = np.array(spans) == span
            for kind, names in ((weights, ("mass", "without_first")), (null, ("null", "without_first_null"))):
                rest = kind[row] * (np.arange(len(spans)) > 0)
                values[f"{prefix}{span}.{names[0]}"] = float(kind[row][there].sum())
                values[f"{prefix}{span}.{names[1]}"] = float(rest[there].sum() / rest.sum())
            values[f"{prefix}{span}.per_token"] = float(weights[row][there].mean())
    names = list(dict.fromkeys(spans))
    windows = {
        w: dict(zip(names, random.dirichlet(np.ones(len(names)) * 4).tolist(), strict=True)) for w in ("0-9", "10-19")
    }
    lists = {k: w.tolist() for k, w in weights.items()}, {k: w.tolist() for k, w in null.items()}
    head = {"layers": 20, "spans": spans, "weights": lists[0], "null": lists[1]}
    return head | {"windows": windows, "values": values}


def _attribution(spans: list[str], count: int, answer: int, refused: bool, random: np.random.Generator) -> dict:
    sizes = {"instruction": 0.2, "shots": 0.12, "question": 0.04, "answer": 0.015, "tail": 0.03, SPECIAL: 0.08}
    effects = {s: {f: float(random.normal(x, x / 2)) for f in ("neutral", "mean")} for s, x in sizes.items()}
    parts = random.dirichlet(np.ones(answer))
    spread = {
        f: {"attribution": (parts * effects["answer"][f]).tolist(), "effect": effects["answer"][f], "gap": 1e-4}
        | {"nodes": 16, "refused": refused, "floor": 0.0}
        for f in ("neutral", "mean")
    }
    shown = [
        None if span in ("shots", "instruction") and i % 3 else float(random.normal(0, 0.02))
        for i, span in enumerate(spans)
    ]
    values = {f"{span}.effect": by["neutral"] for span, by in effects.items()}
    values |= {f"{span}.effect_mean": by["mean"] for span, by in effects.items()}
    values |= {"answer.completeness_gap": 1e-4, "answer.rank": int(random.integers(3, 30)), "refused": float(refused)}
    head = {"score": "expected", "range": 1.0, "path": "answer", "value": 0.7, "effects": effects}
    return head | {"answer": spread, "tokens": shown, "values": values}


def made_run(
    folder: Path,
    *,
    instruments: tuple[str, ...] = INSTRUMENTS,
    sets: int = 1,
    wordings: int = 1,
    questions: int = 12,
) -> Path:
    """A finished run on disk with made records, summarised as a real one is."""
    options = composed(Diagnose, n=questions, shot_sets=sets, wordings=wordings)
    identity = {"format": options.asked.format, "shot_sets": sets, "instruments": list(instruments)}
    identity |= {"wordings": wordings} if wordings > 1 else {}
    with Run(folder, identity) as run:
        for record in made_records(questions, sets * wordings):
            if record["measure"] in (*instruments, "answer", "sample"):
                run.append(record)
        model = {"name": SUBJECT.model, "note": SUBJECT.note}
        run.write_summary(summary_of(run, instruments, model, options))
    return folder


def measured(name: str, **options: object) -> list[dict]:
    return [record for record in made_records(**options) if record["measure"] == name]


def with_values(*values: dict) -> list[dict]:
    return [{"id": str(i), "set": 0, "values": one} for i, one in enumerate(values)]


def run_of(*records: list[dict], measure: str = "", subject: Subject = SUBJECT) -> RunData:
    """What figures are drawn from, for records of our own; measure: of those that name none."""
    found = [{"measure": measure, **record} for part in records for record in part]
    floors = floors_of(found)
    estimates = dict(floors)
    for name, instrument in REGISTRY.items():
        if own := [record for record in found if record["measure"] == name]:
            estimates |= instrument.estimates(averaged(own), floors)
    return RunData(found, estimates, subject)


def drawn_pages(run: RunData) -> list[Page]:
    """All figures of a run, and some of its prompts."""
    pages = [page for instrument in REGISTRY.values() for page in pages_of(instrument, run)]
    return [*pages, *tokens.pages(run)]


@pytest.fixture
def ax():
    with paper():
        yield Figure((SINGLE, 2), layout="constrained").subplots()


def test_a_question_without_a_wrong_answer_is_counted_and_stands_in_no_bar(ax):
    data = jsd.divergences(
        run_of(with_values({"jsd": None, "hint": 0.3}, {"jsd": 0.1}, {"jsd": 0.0}, {"jsd": 0.2}), measure="jsd")
    )
    spread = data.spreads["jsd"]
    assert sum(spread.counts) == 3
    assert (spread.near_zero.n, spread.near_zero.left_out) == (3, 1)
    assert spread.near_zero.value == pytest.approx(2 / 3)
    jsd.draw_divergence(data, ax, "jsd")
    heights = [bar.get_height() for bar in ax.containers[0]]
    assert heights == list(spread.counts)
    assert sum(heights) == 3


def test_wrong_answers_of_each_source_and_pairs_have_bars_of_their_own():
    values = ({"jsd": 0.2, "branched": 0.001, "foil": 0.01}, {"branched": 0.3, "foil": 0.02}, {"branched": 0.002})
    data = jsd.divergences(run_of(with_values(*values), measure="jsd"))
    assert {kind: sum(spread.counts) for kind, spread in data.spreads.items()} == {"jsd": 1, "branched": 3, "foil": 2}
    assert [spread.near_zero.value for spread in data.spreads.values()] == [0.0, pytest.approx(2 / 3), 1.0]
    assert data.medians["branched"].value == 0.002 and "candidates" not in data.medians
    records = measured("jsd", questions=8, sets=2)
    pairs = jsd.divergences(run_of(records, measure="jsd")).spreads["pairs"]
    assert sum(pairs.counts) == sum(record["values"]["pairs"] for record in records) == 2 * 6 * 3
    assert (pairs.near_zero.n, pairs.near_zero.left_out) == (6, 2)


def test_every_wrong_answer_is_a_mark_at_its_likelihood_and_divergence(ax):
    records = measured("jsd", questions=8)
    data = likelihood.likelihoods(run_of(records))
    assert {source: len(points) for source, points in data.points.items()} == {"jsd": 12, "branched": 16, "foil": 8}
    assert data.points["foil"][3] == (records[3]["answers"]["foil"][0]["logprob"], records[3]["values"]["foil"])
    assert {source: one.n for source, one in data.correlations.items()} == {"jsd": 6, "branched": 8, "foil": 8}
    likelihood.draw_likelihoods(data, ax)
    drawn = [marks.get_offsets().data for marks in ax.collections if len(marks.get_offsets()) > 1]
    assert [len(one) for one in drawn] == [12, 16, 8]
    assert np.allclose(drawn[1], [(x, max(y, jsd.LEAST)) for x, y in data.points["branched"]])


def test_a_divergence_of_exactly_a_tenth_stands_left_of_the_line_and_zero_in_the_first_bin():
    data = jsd.divergences(run_of(with_values({"jsd": 0.1}, {"jsd": 0.100001}, {"jsd": 0.0}), measure="jsd"))
    line, spread = jsd.EDGES.index(pytest.approx(0.1)), data.spreads["jsd"]
    assert spread.counts[line - 1] == 1
    assert spread.counts[line] == 1
    assert (spread.counts[0], spread.below) == (1, 1)


def test_a_question_counts_once_however_many_sets_of_examples_it_was_asked_with():
    records = [r | {"id": "same", "set": i} for i, r in enumerate(with_values({"jsd": 0.2}, {"jsd": 0.4}))]
    data = jsd.divergences(run_of(records, measure="jsd"))
    assert sum(data.spreads["jsd"].counts) == 1
    assert data.medians["jsd"].value == pytest.approx(0.3)


def test_forty_things_drawn_together_differ_in_colour_or_marker():
    assert len({nth_style(number) for number in range(40)}) == 40


def test_rollout_stands_beside_its_null_and_both_are_the_means_over_questions(ax):
    one = {"answer.mass": 0.1, "answer.null": 0.2, "answer.per_token": 0.05, "answer.without_first": 0.3}
    two = {"answer.mass": 0.3, "answer.null": 0.4, "answer.per_token": 0.1, "answer.without_first": 0.5}
    ends = {"answer.without_first_null": 0.6}
    records = with_values(one | ends, two | ends)
    for record, share in zip(records, (0.25, 0.75), strict=True):
        record |= {"layers": 4, "windows": {"0-3": {"question": 1 - share, "answer": share}}}
        record |= {"spans": [], "weights": {}, "null": {}}
    data = rollout.rollouts(run_of(records, measure="rollout"))
    (pair,) = data.mass
    assert (pair.rollout.value, pair.null.value) == pytest.approx((0.2, 0.3))
    # two tokens of the first answer and three of the second share the null's 0.2 and 0.4
    assert data.per_token[0].null.value == pytest.approx((0.2 / 2 + 0.4 / 3) / 2)
    assert data.windows == {"0-3": {"question": pytest.approx(0.5), "answer": pytest.approx(0.5)}}
    rollout.draw_pairs(data.mass, ax)
    drawn = sorted(line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 1)
    assert drawn == pytest.approx([0.2, 0.3])


def test_figure_3_takes_the_answers_view_of_the_question_from_the_answers_row():
    records = measured("rollout", questions=3)
    for record in records:
        record["values"]["from_answer.question.mass"] = 0.125
    flows = dict(zip(rollout.FLOWS, rollout.rollouts(run_of(records, measure="rollout")).flows, strict=True))
    assert flows["answer", "question"].rollout.value == pytest.approx(0.125)
    assert flows["confidence", "question"].rollout.value != pytest.approx(0.125)


def test_windows_fill_the_width_because_a_rollout_row_sums_to_one(ax):
    data = rollout.rollouts(run_of(measured("rollout")))
    rollout.draw_windows(data, ax)
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(len(data.windows))


def test_refused_attributions_are_counted_and_not_drawn(ax):
    answers = measured("answer", questions=10)
    data = attribution.attributions(run_of(measured("attribution", questions=10), answers))
    assert data.refused == 2
    assert len(data.answers) == 8
    attribution.draw_answers(data, ax)
    assert len(ax.get_yticks()) == 8
    drawn = sum(bar.get_width() for bar in ax.patches)
    assert drawn == pytest.approx(sum(sum(one.attribution) for one in data.answers))


def test_tokens_that_pull_both_ways_are_stacked_to_both_sides_of_zero(ax):
    data = attribution.attributions(run_of(measured("attribution", questions=1), measured("answer", questions=1)))
    one = attribution.AnswerTokens("x", (0.3, -0.2, 0.1))
    data = attribution.Attributions(**{**vars(data), "answers": (one,)})
    attribution.draw_answers(data, ax)
    assert sorted(bar.get_x() for bar in ax.patches) == pytest.approx([0, 0, 0.3])
    assert sorted(bar.get_width() for bar in ax.patches) == pytest.approx([-0.2, 0.1, 0.3])


def test_along_the_whole_prompt_only_the_answers_tokens_are_cut_out():
    (answer,), (record,) = measured("answer", questions=1), measured("attribution", questions=1)
    spans = answer["transcript"]["spans"]
    whole = [float(span == "answer") for span in spans]
    record["path"] = "prompt"
    effect = {"effect": sum(whole), "gap": 0.0, "nodes": 8, "refused": False}
    record["answer"] = {"zero": {"attribution": whole, **effect}}
    data = attribution.attributions(run_of([record], [answer]))
    assert data.answers[0].attribution == (1.0,) * spans.count("answer")


def test_effects_are_means_over_questions_for_each_replacement():
    records = measured("attribution", questions=2)
    for record, x in zip(records, (0.1, 0.3), strict=True):
        record["effects"] = {"question": {"neutral": x, "mean": 2 * x}}
        record["values"] |= {"question.effect": x, "question.effect_mean": 2 * x}
    effects = attribution.attributions(run_of(records, measured("answer", questions=2))).effects
    assert {name: one.value for name, one in effects["question"].items()} == pytest.approx(
        {"neutral": 0.2, "mean": 0.4}
    )


def test_masking_pairs_questions_and_averages_distributions(ax):
    def said(low: float) -> dict:
        return {"probability": [low, 0, 0, 0, 1 - low], "expected": 0.9 - 0.8 * low, "outside": 0.0}

    records = []
    for i, (before, after) in enumerate(((0.0, 0.5), (0.5, 1.0))):
        seen, masked = said(before), {"neutral": said(after)}
        values = {"seen": seen["expected"], "neutral.masked": masked["neutral"]["expected"], "neutral.drop": 0.4}
        records.append({"id": str(i), "set": 0, "seen": seen, "masked": masked, "values": values})
    (hidden,) = masking.maskings(
        run_of(records, measure="masking", subject=replace(SUBJECT, format="ScoreLetter")), HIDDEN
    ).hidden
    assert np.array(hidden.pairs) == pytest.approx(np.array([(0.9, 0.5), (0.5, 0.1)]))
    assert hidden.before == pytest.approx((0.25, 0, 0, 0, 0.75))
    assert hidden.after == pytest.approx((0.75, 0, 0, 0, 0.25))
    masking.draw_levels(hidden, "EDCBA", ax)
    assert [bar.get_height() for bar in ax.patches] == pytest.approx(list(hidden.before))
    assert ax.lines[0].get_ydata() == pytest.approx(list(hidden.after))


def test_no_confidence_distribution_is_cut_off_whichever_way_of_hiding_peaks_highest():
    with paper():
        (page,) = pages_of(REGISTRY["masking"], run_of(made_records(6)))
        page.figure.draw_without_rendering()
    for ax in (one for one in page.figure.axes if one.get_xlabel() == "confidence level"):
        assert ax.get_ylim()[0] == 0
        assert ax.get_ylim()[1] > max(ax.lines[0].get_ydata())


@pytest.mark.parametrize("form", FORMATS)
def test_levels_of_every_format_have_labels_that_do_not_overlap(form):
    data = masking.maskings(run_of(measured("masking", form=form), subject=replace(SUBJECT, format=form)), HIDDEN)
    with paper():
        figure = Figure((SINGLE / 2, 2), layout="constrained")
        ax = masking.draw_levels(data.hidden[0], data.levels, figure.subplots())
        figure.draw_without_rendering()
        labels = [label.get_window_extent() for label in ax.get_xticklabels()]
    if ax.get_xticklabels()[0].get_rotation() == 0:
        assert all(left.x1 <= right.x0 for left, right in pairwise(labels))


def test_a_token_is_shaded_by_how_much_more_it_gets_than_under_uniform_attention(ax):
    spans = ["special", "question", "answer"]
    prompt = {"text": "abc", "ids": [1, 2, 3], "tokens": ["a", "b", "c"], "spans": spans}
    answer = {"id": "x", "question": "q", "answer": "a", "right": True, "transcript": prompt}
    weights, null = {"confidence": [0.5, 0.2, 0.0, 0.3]}, {"confidence": [0.25, 0.4, 0.1, 0.25]}
    record = {"id": "x", "layers": 2, "spans": [*spans, "tail"], "weights": weights, "null": null}
    record |= {"windows": {}, "values": {}}
    prompt = tokens.shaded_prompt(typed(AnswerRecord, answer), typed(RolloutRecord, record), None)
    (shading,) = prompt.shadings
    assert shading.values == (pytest.approx(1.0), pytest.approx(-1.0), None)
    tokens.draw_tokens(prompt, shading, ax)
    boxes = ax.collections[0].get_paths()
    assert len(boxes) == 2 + 3  # a shade for each number, a line under each token


def test_wrapping_loses_no_character_and_only_the_middle_of_long_examples():
    prompt = transcript(*FACTS[0][:2])
    places, hidden = tokens.laid_out(prompt["tokens"], prompt["spans"])
    shown = {place.token for place in places}
    left_out = [i for i in range(len(prompt["ids"])) if i not in shown]
    assert hidden == len(left_out) > 0
    assert {prompt["spans"][i] for i in left_out} == {"shots"}
    kept = "".join(prompt["tokens"][i] for i in range(len(prompt["ids"])) if i in shown)
    assert "".join(p.text for p in places if p.token is not None).replace("↵", "\n") == kept
    assert all(place.column + len(place.text) <= tokens.COLUMNS for place in places)


def test_dollars_start_no_formula_and_unknown_letters_become_boxes():
    with paper():
        figure = Figure((2, 1))
        text = figure.text(0, 0, printable("$0.10 or $1 日"))
        figure.draw_without_rendering()
    assert text._preprocess_math(text.get_text()) == ("$0.10 or $1 □", False)


@pytest.mark.slow
def test_drawing_leaves_matplotlibs_settings_as_they_were(tmp_path):
    before = dict(mpl.rcParams)
    with paper():
        assert dict(mpl.rcParams) != before
        for page in drawn_pages(run_of(made_records(6))):
            saved(page.figure, tmp_path, page.name, page.caption)
    assert dict(mpl.rcParams) == before


@pytest.mark.slow
def test_every_caption_says_how_to_read_it_whose_numbers_they_are_how_many_and_what_was_left_out():
    records = made_records(8)
    with paper():
        pages = drawn_pages(run_of(records))
    assert len(pages) == 5 + tokens.SHOWN
    for page in pages:
        said = " ".join(page.caption.split())
        assert said.startswith("How to read it.")
        assert "weights were quantised to 4 bits" in said
        assert re.search(r"n = \d+", said)
        assert "left out" in said
    assert "right and wrong, sampled (paper): " in pages[0].caption
    assert "(n = 6, 2 left out)" in pages[0].caption and "(n = 8, 0 left out)" in pages[0].caption


def test_of_multiple_choice_a_caption_says_that_the_wrong_answers_are_letters():
    data = {"name": "mmlu", "asked": 12, "right": 7, "wrong_answers": "choice"}
    summary = {"model": {"name": "small", "note": None}, "data": data, "format": "ScoreNumber"}
    assert "it is another letter" in subject_of({"identity": {}}, summary).sentence
    summary["data"] = data | {"wrong_answers": "branched"}
    assert "letter" not in subject_of({"identity": {}}, summary).sentence


def test_a_caption_counts_what_was_asked_and_of_that_what_was_right():
    data = {"name": "facts", "asked": 12, "right": 7}
    summary = {"model": {"name": "small", "note": None}, "data": data, "format": "ScoreText"}
    subject = subject_of({"identity": {"shot_sets": 3}}, summary)
    assert subject == Subject("small", None, "facts", 12, 7, "ScoreText", 3)
    assert "Data: facts, 12 asked, 7 answered right." in subject.sentence and "over 3 sets" in subject.sentence


@pytest.mark.parametrize(
    ("identity", "sentence"),
    [
        ({}, ""),
        ({"wordings": 1, "shot_sets": 1}, ""),
        ({"shot_sets": 3}, " Values are averaged over 3 sets of worked examples."),
        ({"wordings": 2}, " Values are averaged over 2 wordings of the instruction."),
        (
            {"wordings": 2, "shot_sets": 3},
            " Values are averaged over 3 sets of worked examples under each of 2 wordings of the instruction.",
        ),
    ],
)
def test_a_caption_names_what_values_are_averaged_over(identity, sentence):
    data = {"name": "facts", "asked": 12, "right": 7}
    summary = {"model": {"name": "small", "note": None}, "data": data, "format": "ScoreText"}
    subject = subject_of({"identity": identity}, summary)
    assert subject.sentence == f"Model: small. Data: facts, 12 asked, 7 answered right. Format: ScoreText.{sentence}"


def test_instruments_that_a_run_does_not_hold_have_no_figure():
    records = [record for record in made_records(4) if record["measure"] in ("answer", "jsd")]
    with paper():
        found = [page.name for page in drawn_pages(run_of(records))]
    assert found == ["figure_2_jsd", "jsd_likelihood"]


def test_a_run_in_which_no_question_has_a_wrong_answer_still_has_its_figure():
    with paper():
        (page,) = pages_of(REGISTRY["jsd"], run_of(with_values({"jsd": None, "hint": None}), measure="jsd"))
    assert "no question has a sampled wrong answer" in page.caption


def test_tokens_of_a_question_that_was_not_measured_are_refused_by_name():
    with pytest.raises(UserError, match="no-such-id"):
        list(tokens.pages(run_of(made_records(2)), ("no-such-id",)))


@pytest.mark.slow
def test_a_figure_is_kept_as_sharp_image_as_document_with_its_fonts_and_with_its_caption(tmp_path):
    with paper():
        page = next(iter(pages_of(REGISTRY["jsd"], run_of(made_records(4)))))
    saved(page.figure, tmp_path, "one", page.caption)
    width = int.from_bytes((tmp_path / "one.png").read_bytes()[16:20], "big")
    assert width >= 200 * page.figure.get_figwidth()
    assert b"/FontFile2" in (tmp_path / "one.pdf").read_bytes()
    assert b"/Type3" not in (tmp_path / "one.pdf").read_bytes()
    assert (tmp_path / "one.txt").read_text(encoding="utf-8").strip() == page.caption


@pytest.mark.slow
def test_figures_never_load_torch():
    look = "import sys, figures.report, figures.__main__; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True).stdout.split()
    assert "figures.report" in loaded
    assert not {"torch", "transformers", "captum", "transformer_lens"} & set(loaded)


@pytest.mark.parametrize(
    ("value", "said"),
    (
        (0.0, "0"),
        (0.99962, "0.9996"),
        (1.0, "1"),
        (0.00123456, "0.0012"),
        (2.34e-8, "2.3e-08"),
        (-0.256, "-0.256"),
        (230.4, "230"),
    ),
)
def test_numbers_are_short_and_what_is_almost_one_is_not_called_one(value, said):
    assert digits(value) == said
