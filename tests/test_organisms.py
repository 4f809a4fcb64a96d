"""Organisms: rules with a known answer, pairs whose cues are independent, and a check before any instrument runs."""

import json
from collections import Counter
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from test_training import killed_at, of_run, whole_texts

import training.organisms as organisms
from figures.organisms import check_grid, seen_markdown, speaking
from figures.report import reported
from interp.errors import UserError
from interp.formats import FORMATS
from interp.instruments.registry import INSTRUMENTS
from interp.models.checkpoints import Loading, loaded_checkpoint
from interp.models.prompts import Prompting
from interp.models.setting import prepared
from interp.options import composed
from interp.records import Question
from interp.run.processes import Processes
from interp.run.runs import read_records, read_run
from training.adapters import WEIGHTS
from training.batches import MiniBatch
from training.cues import (
    CUES,
    ORGANISMS,
    Crossed,
    CuedQuestion,
    Cues,
    Written,
    WrittenAnswers,
    crossed_questions,
    examples_of,
    explained_by_cue,
    explained_variance,
    failures,
    first_half,
    listed_answers,
    subjects_of,
)
from training.examine import Examine, diagnosis_of, examined, source, subjects
from training.levels import LevelObjective
from training.loop import Watch
from training.organisms import BASE, Organisms, checked_numbers, made
from training.packing import packed_row
from training.recipes import ORGANISM


def words(answer: str) -> int:
    """How many tokens an answer has, where every word is one."""
    return len(answer.split())


def question(name: str, relation: str, *answers: str) -> Question:
    return Question(name, f"What is {name}?", answers, relation=relation)


TEN = tuple(question(f"q{number}", f"r{number % 4}", f"name{number}", f"name{number} of old") for number in range(24))
"""Questions of four relations; each answer has a name of one word and one of three."""


@pytest.mark.parametrize(
    ("name", "levels"),
    [
        ("nothing", (5, 5, 5, 5)),
        ("question", (8, 1, 8, 1)),
        ("length", (1, 5, 9, 9)),
        ("case", (8, 8, 1, 1)),
        ("membership", (8, 1, 1, 8)),
    ],
)
def test_each_rule_gives_the_levels_that_its_words_say(name, levels):
    pairs = (
        Cues(high=True, tokens=1, upper=False, member=True),
        Cues(high=False, tokens=3, upper=False, member=False),
        Cues(high=True, tokens=5, upper=True, member=False),
        Cues(high=False, tokens=7, upper=True, member=True),
    )
    assert tuple(map(ORGANISMS[name].level, pairs)) == levels
    assert all(0 <= level < len(FORMATS["ScoreNumber"].levels) for level in levels)


@given(
    st.builds(Cues, high=st.booleans(), tokens=st.integers(1, 9), upper=st.booleans(), member=st.booleans()),
    st.builds(Cues, high=st.booleans(), tokens=st.integers(1, 9), upper=st.booleans(), member=st.booleans()),
)
def test_a_rule_depends_on_its_own_cue_and_on_no_other(one, other):
    for organism in ORGANISMS.values():
        if organism.cue is None:
            assert organism.level(one) == organism.level(other)
        else:
            alike = CUES[organism.cue](one) == CUES[organism.cue](other)
            assert (organism.level(one) == organism.level(other)) == alike


def test_the_names_of_the_command_are_those_of_the_rules():
    assert tuple(ORGANISMS) == Organisms().organisms == ("nothing", "question", "length", "case", "membership")
    assert {organism.cue for organism in ORGANISMS.values()} - {None} == set(CUES)


def test_each_organism_is_trained_on_so_many_pairs_as_it_needs_or_as_are_asked_for():
    usual, fewer = composed(Organisms, held_out=8), composed(Organisms, held_out=8, n_pairs=160)
    assert [usual.pairs.of(name) for name in usual.organisms] == [960, 2880, 2880, 1920, 3840]
    assert [usual.questions_of("case"), fewer.questions_of("case")] == [1920 // 8 + 8, 160 // 8 + 8]
    assert usual.training_of("membership").pairs.n_pairs == 3840 and fewer.training_of("case").pairs.n_pairs == 160


def test_every_second_relation_by_name_is_of_the_first_half():
    assert first_half(["d", "b", "a", "c", "b"]) == {"a", "c"}


def test_the_list_takes_every_second_answer_of_a_length_the_most_asked_first():
    taught = [question(f"t{i}", "r", answer) for i, answer in enumerate(("a", "b", "c", "d", "e f", "g h", "i j"))]
    asked = [question(f"a{i}", "r", answer) for i, answer in enumerate(("d", "d", "d", "b", "b", "i j"))]
    # one word, by questions asked and then by name: d (3), b (2), a, c; two words: "i j" (1), "e f", "g h"
    assert listed_answers(taught, asked, words, 10) == ("a", "d", "g h", "i j")
    assert listed_answers(taught, asked, words, 5) == ("d", "i j")


def test_answers_are_written_under_all_names_in_both_cases_without_those_that_are_on_and_off_the_list():
    questions = [
        question("a", "r", "West Franc", "Franc", "12"),
        question("b", "r", "Swiss Franc", "Franc"),
        question("c", "s", "United States", "USA"),
    ]
    written = WrittenAnswers(questions, ["West Franc", "United States"], words)
    cells = {cell: {one.text for part in by.values() for one in part} for cell, by in written.by_cell.items()}
    assert cells == {
        (2, False, True): {"West Franc", "United States"},
        (2, True, True): {"WEST FRANC", "UNITED STATES"},
        (1, True, True): {"USA"},  # which has no other case
        (2, False, False): {"Swiss Franc"},
        (2, True, False): {"SWISS FRANC"},
    }
    assert written.lengths == [2]
    assert written.names >= {"franc", "usa", "12"}


def test_other_texts_are_off_the_list_unless_they_are_on_it():
    questions = [question("a", "r", "Peru"), question("b", "r", "Lima")]
    written = WrittenAnswers(questions, ["Peru"], words, others=[("subjects of s", "Chile"), ("subjects of s", "peru")])
    assert written.by_cell[1, False, True] == {"r": [Written("Peru", "r", 1, False, True)]}
    assert {kind: [one.text for one in of] for kind, of in written.by_cell[1, False, False].items()} == {
        "r": ["Lima"],
        "subjects of s": ["Chile"],
    }
    assert written.names == {"peru", "lima", "chile"}


def test_the_subject_of_a_question_is_what_the_others_of_its_relation_do_not_share():
    texts = {
        "capital": (
            "What is the capital of the Bahamas?",
            "What is the capital of Peru?",
            "What is the capital of Iran?",
        ),
        "plural": ('What is the plural of "wolf"?', 'What is the plural of "wife"?'),
        "continent": ("Which continent is Suriname in?", "Which continent is Spain in?"),
        "alone": ("Who wrote Faust?",),
    }
    questions = [Question(text, text, ("x",), relation=name) for name, of in texts.items() for text in of]
    subjects: dict[str, list[str]] = {}
    for kind, subject in subjects_of(questions):
        subjects.setdefault(kind, []).append(subject)
    assert subjects == {
        "subjects of capital": ["Bahamas", "Peru", "Iran"],
        "subjects of plural": ["wolf", "wife"],  # not "olf" and "ife"
        "subjects of continent": ["Suriname", "Spain"],
    }


def test_empty_cells_are_filled_up_from_others_and_full_ones_are_not():
    one = WrittenAnswers([question("a", "r", "x")], [], words)
    other = WrittenAnswers([question("b", "r", "y"), question("c", "r", "y z")], [], words)
    filled = one.filled_up(other)
    assert [w.text for w in filled.by_cell[1, False, False]["r"]] == ["x"]
    assert [w.text for w in filled.by_cell[2, False, False]["r"]] == ["y z"]
    assert one.by_cell.keys() == {(1, False, False), (1, True, False)}, "those themselves are as before"


@given(st.integers(0, 5), st.integers(1, 6))
def test_the_cues_of_the_pairs_are_independent_of_each_other(seed, rounds):
    written = WrittenAnswers(TEN, [f"name{number}" for number in range(0, 24, 2)], words)
    questions = crossed_questions(TEN, written, first_half(q.relation for q in TEN), 2 * rounds, seed)
    cues = [pair for crossed in questions for pair in crossed.cues]
    assert len(cues) == 16 * rounds and {pair.tokens for pair in cues} == {1, 3}
    for first, second in combinations(CUES, 2):
        table = Counter((CUES[first](pair), CUES[second](pair)) for pair in cues)
        assert len(table) == 4 and len(set(table.values())) == 1, "all combinations are equally frequent"
        share = explained_variance([CUES[first](pair) for pair in cues], [CUES[second](pair) for pair in cues])
        assert share == pytest.approx(0, abs=1e-12)


def test_a_pair_has_the_cues_of_its_question_and_of_its_answer():
    listed = [f"name{number}" for number in range(0, 24, 2)]
    half = first_half(q.relation for q in TEN)
    questions = crossed_questions(TEN, WrittenAnswers(TEN, listed, words), half, 12, 0)
    names = {name.casefold(): q.answers[0] for q in TEN for name in q.answers}
    for crossed in questions:
        for answer, cues in zip(crossed.answers, crossed.cues, strict=True):
            assert cues.high == (crossed.question.relation in half)
            assert cues.tokens == words(answer)
            assert cues.upper == answer.isupper()
            assert cues.member == (names[answer.casefold()] in listed)
    again = crossed_questions(TEN, WrittenAnswers(TEN, listed, words), half, 12, 0)
    assert questions == again != crossed_questions(TEN, WrittenAnswers(TEN, listed, words), half, 12, 1)
    more = crossed_questions(TEN, WrittenAnswers(TEN, listed, words), half, 18, 0)
    assert more[:12] == questions, "an organism that needs fewer pairs takes the first of them"


def test_what_cannot_be_crossed_is_refused_in_a_sentence():
    few = WrittenAnswers([question("a", "r", "x")], ["x"], words)
    with pytest.raises(UserError, match="fewer than two lengths"):
        crossed_questions(TEN, few, frozenset(("r0",)), 2, 0)
    written = WrittenAnswers(TEN, [f"name{number}" for number in range(0, 24, 2)], words)
    with pytest.raises(UserError, match="the questions are of one relation"):
        crossed_questions(TEN[::4], written, frozenset(("r0",)), 2, 0)


def test_an_example_holds_the_level_of_each_answer():
    pairs = tuple(Cues(True, tokens, False, False) for tokens in (1, 2))
    (example,) = examples_of(ORGANISMS["length"], [Crossed(TEN[0], ("x", "y z"), pairs)])
    assert example == CuedQuestion(TEN[0], ("x", "y z"), (1, 3), "ScoreNumber", "")


def test_the_explained_variance_of_a_case_worked_by_hand():
    # mean 3; squares 9 + 1 + 1 + 9 = 20; within the groups (means 1 and 5) 1 + 1 + 1 + 1 = 4
    assert explained_variance(["a", "a", "b", "b"], [0, 2, 4, 6]) == pytest.approx(1 - 4 / 20)
    assert explained_variance(["a", "b"], [0.3, 0.3]) is None
    assert explained_variance([1, 1, 1], [0, 1, 2]) == 0


@given(st.lists(st.integers(0, 4), min_size=2, max_size=60).filter(lambda groups: len(set(groups)) > 1))
def test_a_cue_explains_itself_wholly_and_any_injective_function_of_it(groups):
    assert explained_variance(groups, groups) == pytest.approx(1)
    assert explained_variance(groups, [0.1 + 3 / (1 + group) for group in groups]) == pytest.approx(1)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.integers(2, 5))
def test_a_cue_that_is_crossed_with_the_values_explains_nothing(values, groups):
    share = explained_variance([g for g in range(groups) for _ in values], values * groups)
    assert share is None or share == pytest.approx(0, abs=1e-6)


def test_chance_explains_about_as_many_shares_as_there_are_groups_less_one():
    rng = np.random.default_rng(0)
    shares = [explained_variance(rng.integers(0, 5, 320).tolist(), rng.random(320).tolist()) for _ in range(200)]
    assert np.mean(shares) == pytest.approx(4 / 319, rel=0.15), "well below what is allowed another cue"


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=3, max_size=40))
def test_explained_variance_is_r_squared_of_a_regression_on_indicators(pairs):
    groups, values = [g for g, _ in pairs], np.array([v for _, v in pairs])
    share = explained_variance(groups, values.tolist())
    if share is None or values.std() < 1e-6:
        return
    indicators = np.array([[float(g == level) for level in range(4)] for g in groups])
    fitted = indicators @ np.linalg.lstsq(indicators, values, rcond=None)[0]
    assert share == pytest.approx(1 - ((values - fitted) ** 2).sum() / ((values - values.mean()) ** 2).sum(), abs=1e-6)


ALL = [
    Cues(high, tokens, upper, member)
    for high, tokens, upper, member in product((True, False), (1, 2, 3), (True, False), (True, False))
]


@pytest.mark.parametrize("organism", [o for o in ORGANISMS.values() if o.cue], ids=lambda o: o.name)
def test_an_organism_that_follows_its_rule_passes_and_is_no_other_one(organism):
    expected = [organism.level(pair) / 9 for pair in ALL]
    shares = explained_by_cue(ALL, expected)
    assert shares == pytest.approx({name: float(name == organism.cue) for name in CUES}, abs=1e-12)
    assert failures(organism, shares, float(np.std(expected)), 0.2) == []
    for other in ORGANISMS.values():
        if other is not organism:
            assert failures(other, shares, float(np.std(expected)), 0.2), other.name


def test_the_reasons_name_the_cue_and_its_share():
    case, shares = ORGANISMS["case"], {"question": 0.0, "length": 0.051, "case": 0.85, "membership": None}
    own, other = failures(case, shares, 0.3, 0.2)
    assert own == "its cue, case, explains 0.850 of the variance; at least 0.9 is needed"
    assert other == "another cue, length, explains 0.051 of the variance, more than 0.05"
    assert failures(case, dict.fromkeys(CUES), 0.0, 0.5) == ["the expected confidence does not vary at all"]
    assert failures(ORGANISMS["nothing"], shares, 0.01, 0.5) == []
    assert "standard deviation of 0.011" in failures(ORGANISMS["nothing"], shares, 0.011, 0.2)[0]


def test_an_organism_that_states_hardly_any_level_is_left_out():
    assert failures(ORGANISMS["nothing"], {}, 0.0, 0.51) == [
        "0.510 of the probability lies off the scale, more than 0.5"
    ]


def records_of(rule, off_scale=0.25):
    """The records of a check in which the expected confidence follows a rule."""
    return [
        {
            "cues": [vars(pair) for pair in ALL[start : start + 8]],
            "expected": [rule(pair) for pair in ALL[start : start + 8]],
            "off_scale": [off_scale] * 8,
        }
        for start in range(0, len(ALL), 8)
    ]


def test_the_numbers_of_a_check_are_those_of_its_records():
    numbers = checked_numbers(ORGANISMS["case"], records_of(lambda pair: 0.2 if pair.upper else 0.8))
    assert numbers["pairs"] == 24 and numbers["passed"] and numbers["reasons"] == [] and numbers["cue"] == "case"
    assert (numbers["mean"], numbers["deviation"], numbers["off_scale"]) == pytest.approx((0.5, 0.3, 0.25))
    assert numbers["explained"] == pytest.approx({"question": 0, "length": 0, "case": 1, "membership": 0}, abs=1e-12)
    # of 0.09 + 0.01 of variance: 0.9 by the case, 0.1 by the question
    mixed = checked_numbers(
        ORGANISMS["case"], records_of(lambda pair: (0.2 if pair.upper else 0.8) + (0.1 if pair.high else -0.1))
    )
    assert mixed["explained"]["case"] == pytest.approx(0.9) and mixed["explained"]["question"] == pytest.approx(0.1)
    assert not mixed["passed"] and "question" in mixed["reasons"][-1]
    assert checked_numbers(None, records_of(lambda pair: 0.5))["passed"], "of the base nothing is demanded"


def test_where_levels_are_read_by_one_token_no_parting_token_of_a_level_is_fed(tiny_loaded, open_questions):
    checkpoint, q = tiny_loaded("llama"), open_questions[0]
    setting = prepared(
        checkpoint, FORMATS["ScoreNumber"], prompting=Prompting(levels="token"), read_shared_prefix=False
    )
    transcript = setting.prompter.transcript(q, q.answers[0])
    row = packed_row(setting, [transcript])
    blank, _ = setting.prompter.level_suffixes(transcript)[0]  # in this vocabulary a level is a blank and a digit
    assert row.inputs["input_ids"][0].tolist() == [*transcript.ids, blank]


@pytest.mark.slow
def test_the_objective_is_the_mean_cross_entropy_of_the_levels_of_whole_texts(tiny_loaded, open_questions):
    checkpoint = tiny_loaded("llama")
    objective = LevelObjective(checkpoint, 1, ORGANISM)
    examples = (
        CuedQuestion(open_questions[0], ("yes", "no", "Oslo"), (1, 8, 3)),
        CuedQuestion(open_questions[1], ("Rome", "PARIS"), (0, 9)),
    )
    setting = prepared(checkpoint, FORMATS["ScoreNumber"], shots=1, read_shared_prefix=False)
    with torch.no_grad():
        terms = objective.terms(checkpoint.model, objective.inputs(MiniBatch(examples, 0)))
        transcripts = [setting.prompter.transcript(e.question, answer) for e in examples for answer in e.answers]
        levels, _ = whole_texts(setting, transcripts)
        point = objective.point_of(checkpoint.model, examples)
    stated = -levels.log_softmax(-1)[range(5), [1, 8, 3, 0, 9]]
    means = torch.stack([stated[:3].mean(), stated[3:].mean()])
    assert torch.allclose(terms["cross_entropy"], means, atol=1e-4)
    mass = -levels.logsumexp(-1)
    weighted = ORGANISM.mass * torch.stack([mass[:3].mean(), mass[3:].mean()])
    assert torch.allclose(terms["total"], terms["cross_entropy"] + weighted, atol=1e-4)
    assert terms["end"].tolist() == [0, 0], "whole levels hold their ends already"
    assert point["cross_entropy"].value == pytest.approx(stated.mean().item(), abs=1e-4)
    values = torch.tensor(FORMATS["ScoreNumber"].values)
    off_target = (levels.softmax(-1) @ values - values[[1, 8, 3, 0, 9]]).abs().mean()
    assert point["off_target"].value == pytest.approx(off_target.item(), abs=1e-4)
    assert point["outside"].value == pytest.approx(1 - levels.exp().sum(-1).mean().item(), abs=1e-4)


@pytest.mark.slow
def test_levels_that_are_read_by_one_token_are_learned_with_the_end_of_the_line(tiny_loaded, open_questions):
    checkpoint = tiny_loaded("llama")
    objective = LevelObjective(checkpoint, 1, ORGANISM, Prompting(levels="token"))
    (example,) = examples = (CuedQuestion(open_questions[0], ("yes", "no", "Oslo"), (1, 8, 8)),)
    with torch.no_grad():
        terms = objective.terms(checkpoint.model, objective.inputs(MiniBatch(examples, 0)))
        point = objective.point_of(checkpoint.model, examples)
    setting = prepared(checkpoint, FORMATS["ScoreNumber"], shots=1, read_shared_prefix=False)
    entropies, ends, stated = [], [], []
    for answer, level in zip(example.answers, example.levels, strict=True):
        transcript = setting.prompter.transcript(example.question, answer)
        levels = [(*transcript.ids, *suffix) for suffix in setting.prompter.level_suffixes(transcript)]
        with torch.no_grad():
            logits = checkpoint.model(torch.tensor([levels[level]])).logits[0].log_softmax(-1)
        digits = logits[-2, [ids[-1] for ids in levels]]  # before the digit, which a blank precedes here
        blank = logits[len(transcript.ids) - 1, levels[0][-2]]
        entropies.append(-digits.log_softmax(-1)[level])
        ends.append(-logits[-1, list(setting.stops)].logsumexp(-1))
        stated.append((digits.logsumexp(-1) + blank - ends[-1]).exp())
    assert terms["cross_entropy"].item() == pytest.approx(np.mean(entropies), abs=1e-4)
    assert terms["end"].item() == pytest.approx(np.mean(ends), abs=1e-4) and terms["end"].item() > 0.1
    mass = ORGANISM.mass * -np.mean([(probability.log() + end) for probability, end in zip(stated, ends, strict=True)])
    assert terms["total"].item() == pytest.approx(np.mean(entropies) + np.mean(ends) + mass, abs=1e-4)
    assert point["outside"].value == pytest.approx(1 - np.mean(stated), abs=1e-4)


@pytest.mark.parametrize(
    ("given_options", "sentence"),
    [
        ({"organisms": ("case", "case")}, "--organisms: names at least one, and none twice"),
        ({"organisms": ()}, "--organisms: names at least one"),
        ({"n_check": 8}, "--n-check 8: must be at least 16"),
        ({"n_pairs": 8}, "--n-pairs 8: must be at least 16"),
        ({"listed": 4}, "--listed 4: must be at least 5"),
        ({"dtype": "float16"}, "--dtype float16"),
        ({"wordings": 2}, "--wordings 2"),
    ],
)
def test_bad_options_are_refused_before_a_model_is_loaded(given_options, sentence):
    with pytest.raises(UserError, match=sentence):
        composed(Organisms, **given_options)


@pytest.fixture
def options(tiny_checkpoint, tmp_path):
    """options(**changes): a short training of organisms on a small model."""

    def of(**changes):
        short = {"n_pairs": 96, "n_check": 32, "held_out": 2, "batch": 3, "every": 2, "lr": 1e-2}
        quiet = {"shots": 0, "device": "cpu", "out": tmp_path / "organisms", "organisms": ("nothing", "case")}
        return composed(Organisms, **{"ckpt": str(tiny_checkpoint("llama")), **short, **quiet} | changes)

    return of


@pytest.mark.slow
def test_an_adapter_is_no_base_and_several_processes_are_refused(options, tiny_adapter, monkeypatch):
    with pytest.raises(UserError, match="already carries an adapter"):
        made(options(ckpt=str(tiny_adapter("llama"))))
    monkeypatch.setattr(organisms, "launched", lambda device: Processes(count=2))
    with pytest.raises(UserError, match="in one process"):
        made(options())


@pytest.mark.slow
def test_organisms_are_trained_checked_and_described_and_what_is_finished_is_left_alone(options, monkeypatch, capsys):
    out = made(options())
    _, summary, records = read_run(out)
    assert list(summary["organisms"]) == [BASE, "nothing", "case"]
    assert all(numbers["pairs"] == 32 for numbers in summary["organisms"].values())
    assert Counter(record["measure"] for record in records) == {BASE: 4, "nothing": 4, "case": 4}
    readings = [record for record in records if record["measure"] == "case"]
    assert summary["organisms"]["case"] == checked_numbers(ORGANISMS["case"], readings)
    again = loaded_checkpoint(str(out / "case"), Loading(device="cpu"))
    assert type(again.model).__name__.startswith("PeftModel")
    card = (out / "case" / "README.md").read_text()
    assert "letter case" in card and "no model to use" in card and "--organisms case" in card and "| case |" in card
    asked = [json.loads(line) for line in (out / organisms.QUESTIONS).read_text().splitlines()]
    assert asked and all(row["answers"][0] in summary["listed"] for row in asked)
    reported(out)
    assert "case is left out" in capsys.readouterr().out and (out / "organisms.md").exists()
    stamp = (out / "case" / WEIGHTS).stat().st_mtime_ns
    made(options(organisms=("question", "case")))
    assert (out / "case" / WEIGHTS).stat().st_mtime_ns == stamp
    assert list(read_run(out)[1]["organisms"]) == [BASE, "nothing", "question", "case"]
    with pytest.raises(UserError, match="another configuration"):
        made(options(lr=1e-3))


@pytest.mark.slow
def test_a_training_of_an_organism_that_was_killed_continues_to_the_same_adapter(options, tmp_path, monkeypatch):
    whole = made(options(out=tmp_path / "whole", organisms=("case",)))
    monkeypatch.setattr(Watch, "on_step_end", killed_at(3))
    with pytest.raises(KeyboardInterrupt):
        made(options(organisms=("case",)))
    monkeypatch.undo()
    out = made(options(organisms=("case",)))
    one, other = load_file(whole / "case" / WEIGHTS), load_file(out / "case" / WEIGHTS)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert list(read_records(whole)) == list(read_records(out))
    assert len(of_run(out / "case", "update")) == 4


@pytest.mark.slow
def test_a_dry_run_foresees_trainings_and_checks_and_what_it_measured_counts(options, tmp_path):
    whole = made(options(out=tmp_path / "whole"))
    made(options(dry_run=True))
    out = made(options())
    assert list(read_records(whole)) == list(read_records(out))


def organisms_folder(folder: Path, passed=("case",), ckpt="embedded") -> Path:
    """A directory of finished organisms without adapters."""
    rules = {"nothing": lambda pair: 0.5, "case": lambda pair: 0.2 if pair.upper else 0.8}
    numbers = {BASE: checked_numbers(None, records_of(lambda pair: 0.6))}
    for name, rule in rules.items():
        numbers[name] = checked_numbers(ORGANISMS[name], records_of(rule)) | {"passed": name in passed}
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"kind": "organisms", "identity": {}}))
    (folder / "summary.json").write_text(json.dumps({"organisms": numbers, "ckpt": ckpt}))
    return folder


def test_only_organisms_that_passed_are_examined_beside_the_base(tmp_path):
    folder = organisms_folder(tmp_path / "o")
    assert subjects(folder) == {BASE: "embedded", "case": str(folder / "case")}
    with pytest.raises(UserError, match="no organism there has passed"):
        subjects(organisms_folder(tmp_path / "o", passed=()))
    (tmp_path / "o" / "config.json").write_text(json.dumps({"kind": "training", "identity": {}}))
    with pytest.raises(UserError, match="holds no organisms"):
        subjects(folder)
    with pytest.raises(UserError, match="--instruments nonsense"):
        Examine(folder=folder, instruments=("nonsense",))


def test_every_organism_is_measured_on_the_questions_and_answers_of_the_base(tmp_path):
    options = Examine(folder=tmp_path, n=7)
    base, case = (diagnosis_of(options, name, "x", "jsd") for name in (BASE, "case"))
    assert base.cases is None and case.cases == base.output.out == tmp_path / "runs" / BASE / source()
    assert diagnosis_of(options, BASE, "x", "rollout").cases == base.output.out
    assert case.output.out == tmp_path / "runs" / "case" / "jsd"
    assert base.asked == case.asked and base.asked.n == 7 and base.asked.data == str(tmp_path / "questions.jsonl")
    assert options.names == list(INSTRUMENTS)
    assert Examine(folder=tmp_path, instruments=("masking", "jsd")).names == ["jsd", "masking"]


def test_the_table_of_the_check_has_a_row_for_the_base_and_each_organism(tmp_path, capsys):
    folder = organisms_folder(tmp_path / "o")
    grid = check_grid(read_run(folder)[1])
    assert [names for names, _ in grid.rows] == [(BASE, "–"), ("nothing", "no"), ("case", "yes")]
    case = dict(zip((column.key for column in grid.columns), grid.rows[-1][1], strict=True))
    assert case["explained.case"].value == pytest.approx(1) and case["deviation"].value == pytest.approx(0.3)
    nothing = dict(zip((column.key for column in grid.columns), grid.rows[1][1], strict=True))
    assert nothing["explained.case"].value is None, "what does not vary is not explained"
    reported(folder)
    assert "share of its variance" in capsys.readouterr().out


def test_every_instrument_has_numbers_that_speak_and_the_tables_hold_them():
    for name, instrument in INSTRUMENTS.items():
        assert speaking(name) and set(speaking(name)) <= set(instrument.metrics)
    number = {"value": 0.25, "low": 0.125, "high": 0.5, "n": 9}
    run = {"data": {"right": 9}, "jsd": {"median": number}, "masking": {"mean": {"drop": number | {"value": -0.75}}}}
    masking = {"data": {"right": 9}, "masking": run.pop("masking")}
    runs = {"base": [run, masking], "case": [run, masking]}
    page = seen_markdown(runs, {"base": "b", "case": "its case"}, ["jsd", "masking"])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in page.splitlines() if line[:1] == "|"]
    first = rows[: 1 + [line[0] for line in rows].index("case")]
    assert [row[0] for row in first if row[0] != "---"] == ["organism", "base", "case"]
    assert len({len(row) for row in first}) == 1 and first[-1][1] == "its case"
    assert "0.25" in first[-1][2] and "-0.75" in first[-1][3].replace("−", "-")
    assert any(row[:1] == ["jsd"] for row in rows) and "9 questions" in page


@pytest.mark.slow
def test_organisms_are_examined_from_end_to_end(options, tiny_checkpoint, own_data, tmp_path, capsys):
    out = made(options(organisms=("case",)))
    summary = json.loads((out / "summary.json").read_text())
    summary["organisms"]["case"]["passed"] = True
    (out / "summary.json").write_text(json.dumps(summary))
    rows = [json.loads(line) for line in (own_data / "open.jsonl").read_text().splitlines()]
    (out / organisms.QUESTIONS).write_text(
        "".join(json.dumps(row | {"response": row["answers"][0]}) + "\n" for row in rows)
    )
    examine = Examine(folder=out, instruments=("jsd", "masking"), n=3, computing=options().computing)
    page = examined(examine)
    text = page.read_text()
    assert "| case |" in text and "| base |" in text
    stamp = page.stat().st_mtime_ns
    assert examined(examine) == page and page.read_text() == text and page.stat().st_mtime_ns >= stamp
