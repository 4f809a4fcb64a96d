"""Which answers are set against each other: the paper's by default, others where a recipe asks for them."""

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.datasets.grading import is_right, may_be_right
from interp.errors import UserError
from interp.records import Question
from training.contrasts import DISTRACTORS, contrasted, in_proportion, rewritten, with_distractors
from training.recipes import Contrast
from training.triplets import Triplet

PAPER = Contrast()
RIGHT = ("Paris", "Rome", "Oslo", "Lima", "Quito", "Cairo", "Accra", "Seoul", "Hanoi", "Tunis", "Riga")


def triplet(number: int = 0, relation: str = "capital", **more) -> Triplet:
    question = Question(f"q{number}", f"What is number {number}?", (RIGHT[number],), relation=relation)
    return Triplet(question, RIGHT[number], "Bob", "ScoreNumber", ("Cy", "Di and Ed"), **more)


def words(answer: str) -> int:
    return len(answer.split())


@given(st.text(min_size=1).filter(str.strip), st.integers())
def test_a_surface_form_variant_is_another_text(answer, seed):
    assert rewritten(answer, random.Random(seed)) != answer


@pytest.mark.parametrize("answer", ["Paris", "United Kingdom", "12", "went"])
def test_surface_form_variants_say_the_same(answer):
    question = Question("q", "Which?", (answer,))
    made = {rewritten(answer, random.Random(seed)) for seed in range(50)}
    assert len(made) >= 2 and all(is_right(question, variant) for variant in made)


def test_by_default_every_pass_takes_the_right_answer_and_the_next_wrong_one():
    pairs = [contrasted(triplet(), PAPER, epoch, random.Random(epoch), words) for epoch in range(4)]
    assert pairs == [("Paris", wrong) for wrong in ("Bob", "Cy", "Di and Ed", "Bob")]
    alone = replace(triplet(), others=())
    assert contrasted(alone, PAPER, 3, random.Random(0), words) == ("Paris", "Bob")


def test_distractors_are_right_answers_to_other_questions_of_the_relation_and_wrong_here():
    triplets = [triplet(number) for number in range(9)] + [triplet(9, "river"), triplet(10, "")]
    twin = replace(triplets[0], question=replace(triplets[0].question, id="twin", answers=(RIGHT[0], RIGHT[1])))
    found = with_distractors([*triplets, twin], seed=0)
    for one in found[:9]:
        assert len(one.distractors) == DISTRACTORS == len(set(one.distractors))
        assert set(one.distractors) < set(RIGHT[:9]) - {one.right}
    assert found[9].distractors == found[10].distractors == (), "no other question of the relation; no relation"
    assert not any(may_be_right(found[-1].question, answer) for answer in found[-1].distractors)
    assert found == with_distractors([*triplets, twin], seed=0) != with_distractors([*triplets, twin], seed=1)
    assert [replace(one, distractors=()) for one in found] == [*triplets, twin]


def test_a_share_of_the_wrong_answers_are_distractors_but_never_of_greedy_wrong_triplets():
    one = replace(triplet(), distractors=("Rome", "Oslo"))
    always, half = Contrast(same_relation=1.0), Contrast(same_relation=0.5)
    assert [contrasted(one, always, epoch, random.Random(0), words)[1] for epoch in range(3)] == [
        "Rome",
        "Oslo",
        "Rome",
    ]
    taken = [contrasted(one, half, 0, random.Random(seed), words)[1] for seed in range(400)]
    assert 150 < taken.count("Rome") < 250 and taken.count("Bob") == 400 - taken.count("Rome")
    greedy = replace(one, greedy_wrong=True, others=())
    assert contrasted(greedy, always, 0, random.Random(0), words)[1] == "Bob"
    assert contrasted(triplet(), always, 0, random.Random(0), words)[1] == "Bob", "it has no distractor"


def test_wrong_answers_of_the_right_ones_length_are_taken_or_else_the_nearest():
    equal = Contrast(equal_length=True)
    two = replace(triplet(), right="New Paris")
    pairs = {contrasted(two, equal, epoch, random.Random(0), words)[1] for epoch in range(4)}
    assert pairs == {"Bob", "Cy", "Di and Ed"}, "all are one word away from two words"
    longer = replace(triplet(), right="Paris in France")
    assert {contrasted(longer, equal, epoch, random.Random(0), words)[1] for epoch in range(4)} == {"Di and Ed"}
    assert [contrasted(triplet(), equal, epoch, random.Random(0), words)[1] for epoch in range(3)] == [
        "Bob",
        "Cy",
        "Bob",
    ]


def test_a_share_of_the_answers_is_rewritten_right_and_wrong_alike():
    pairs = [contrasted(triplet(), Contrast(variants=0.5), 0, random.Random(seed), words) for seed in range(400)]
    for place, plain in enumerate(("Paris", "Bob")):
        changed = [pair[place] for pair in pairs if pair[place] != plain]
        assert 150 < len(changed) < 250 and len(set(changed)) == 4
    both = sum(right != "Paris" and wrong != "Bob" for right, wrong in pairs)
    assert 60 < both < 140, "independently, so that the form does not tell which answer is right"


@given(st.lists(st.booleans(), max_size=60), st.floats(0, 0.9), st.integers(0, 3))
def test_a_kind_gets_its_share_of_all_and_the_others_stay(kinds, share, seed):
    items = list(enumerate(kinds))
    made = in_proportion(items, lambda item: item[1], share, seed)
    ones, others = ([item for item in items if item[1] is kind] for kind in (True, False))
    if not ones or not others:
        assert made == items
        return
    assert made[: len(others)] == others
    count = len(made) - len(others)
    assert abs(count - share * len(made)) <= 0.5 + 1e-9
    repeated = [made.count(one) for one in ones]
    assert max(repeated) - min(repeated) <= 1, "each is taken about as often as the others"
    assert in_proportion(items, lambda item: item[1], None, seed) == items


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        ({"variants": 1.5}, r"the share variants is 1.5: must lie in \[0, 1\]"),
        ({"same_relation": -0.1}, "the share same_relation is -0.1"),
        ({"greedy_wrong_share": 1.0}, "the share greedy_wrong_share is 1: other triplets are needed"),
    ],
)
def test_a_share_that_is_none_is_refused(given_, said):
    with pytest.raises(UserError, match=said):
        Contrast(**given_)
