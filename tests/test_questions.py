"""Questions: what counts as right, as wrong, as usable wrong; and what a data file may hold."""

import importlib.util
import json
import string
import unicodedata

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from interp.datasets.choices import LETTERS, choice_index
from interp.datasets.grading import is_right, may_be_right
from interp.datasets.questions import fingerprint, loaded_questions, shuffled
from interp.datasets.rows import question_of_record
from interp.datasets.words import normalised
from interp.errors import UserError
from interp.records import Question

LIQUIDS = ("Milk", "Water", "Oil", "Ink")
words = st.text(string.ascii_letters + "éüñßø0123456789", min_size=1, max_size=8).filter(
    lambda word: word.lower() not in ("a", "an", "the")
)
phrases = st.lists(words, min_size=1, max_size=3).map(" ".join)


def asks(*answers: str, choices: tuple[str, ...] = (), **others) -> Question:
    return Question("q", "What?", answers, choices, **others)


def of_lines(path, *lines: str | bytes) -> str:
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in lines))
    return str(path)


GOOD = '{"question": "Which planet is red?", "answers": ["Mars"]}'


# What counts as right


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("The Hague", "hague"),
        ("Asunción", "ASUNCION"),
        ("  São   Tomé.", "sao tome"),
        ("U.S.A.", "u s a"),
        ("Straße", "STRASSE"),
        ("rock'n'roll", "rock n roll"),
        ("an_underscore", "Underscore"),
        ("The", "the."),
        ("-40", "\u221240."),
        ("1914-18", "1914 18"),
        ("(-2, 3)", "-2 3"),
    ],
)
def test_case_accents_punctuation_and_articles_do_not_matter(answer, same):
    assert normalised(answer) == normalised(same) != ""
    assert is_right(asks(answer), same)


def test_a_negative_number_is_not_its_opposite():
    assert not is_right(asks("-40"), "40") and not is_right(asks("40"), "-40")
    assert choice_index("-2", ("2", "-2")) == 1


def test_an_answer_of_nothing_but_articles_or_signs_keeps_what_it_has():
    assert normalised("A") == "a" and normalised("The The") == "the the"
    assert normalised("...") == "" and normalised("") == ""
    assert not is_right(asks("A"), "the")


@given(st.text(max_size=20))
def test_normalising_twice_changes_nothing(text):
    once = normalised(text)
    assert (
        normalised(once) == once
        or {"a", "an", "the"} & set(once.split())  # initials, or an answer of articles alone
        or not unicodedata.is_normalized("NFKD", once)
    )


@given(phrases, phrases)
def test_a_right_answer_within_a_longer_reply_is_not_right(answer, more):
    longer = f"{more} {answer}"
    if normalised(longer) != normalised(answer):
        assert not is_right(asks(answer), longer)
    assert is_right(asks(answer), answer)


def test_a_substring_of_the_reply_does_not_make_it_right():
    question = asks("Paris")
    assert is_right(question, "paris.")
    for reply in ("Not Paris", "Paris, Texas", "Pari", "Parisian", "It is Paris"):
        assert not is_right(question, reply), reply


@pytest.mark.parametrize("reply", ["", " ", "...", "\n", "¿?"])
def test_an_empty_reply_is_never_right_even_beside_an_empty_alias(reply):
    assert not is_right(asks("Paris", "...", ""), reply)
    assert not is_right(asks("Milk", choices=LIQUIDS), reply)


# What is a usable wrong answer


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("Nashville", "Nashville, Tennessee"),
        ("Nashville", "It is Nashville"),
        ("Belgrade", "Belgrad"),
        ("William Shakespeare", "Shakespeare"),
        ("Asunción", "Asuncion."),
        ("Paris", "Not Paris"),
        ("Kyiv", "kyiv"),
        ("Tegucigalpa", "Tegucigulpa"),
        ("Pennsylvania", "PA"),
        ("Pennsylvania", "Pa."),
        ("Pennsylvania", "Pa"),
        ("California", "Calif."),
        ("Texas", "TX"),
        ("New York City", "NYC"),
        ("United States of America", "USA"),
        ("United States of America", "US"),
        ("United Kingdom", "UK"),
        ("Union of Soviet Socialist Republics", "ussr"),
        ("British Broadcasting Corporation", "BBC"),
        ("John F. Kennedy", "JFK"),
        ("Washington, D.C.", "DC"),
        ("Saint Petersburg", "St. Petersburg"),
        ("Mount Everest", "Mt Everest"),
        ("John Kennedy", "J. Kennedy"),
        ("North Korea", "N. Korea"),
        ("Oxygen", "O"),
    ],
)
def test_what_may_be_a_spelling_of_the_right_answer_is_vetoed_both_ways(answer, reply):
    assert may_be_right(asks("Xyzzy", answer), reply)
    assert may_be_right(asks(reply), answer)


@pytest.mark.parametrize(
    ("answer", "reply"),
    [
        ("Oman", "Romania"),  # contained as letters, not as a word
        ("Mali", "Somalia"),
        ("Paris", "Rome"),
        ("79", "78"),  # numbers that look alike are different answers
        ("1915", "1916"),
        ("150", "1500"),
        ("Iran", "Iraq"),
        ("Paris", ""),
        ("Mayotte", "May"),  # letters in their order, but no abbreviation
        ("Slovenia", "Sven"),
        ("Pennsylvania", "NY"),
        ("Pennsylvania", "TN"),
        ("Ca", "C"),  # symbols of elements are not short for each other
        ("Ra", "Rd"),
        ("Latvian", "Estonian"),
        ("New York", "New Jersey"),
        ("South Korea", "North Carolina"),
        ("United Kingdom", "USA"),
        ("1945", "19"),
    ],
)
def test_what_only_looks_alike_is_a_usable_wrong_answer(answer, reply):
    assert not may_be_right(asks(answer), reply)
    assert not may_be_right(asks(reply or "Xyzzy"), answer)
    assert may_be_right(asks(answer), answer), "positive control: the right answer itself is vetoed"


def test_where_a_long_form_is_accepted_the_short_one_makes_no_other_long_one_right():
    assert may_be_right(asks("CA"), "California") and may_be_right(asks("CA", "California"), "Calif.")
    assert not may_be_right(asks("CA", "California"), "Canada")
    assert may_be_right(asks("USA", "Yankee country"), "United States of America"), "initials count all the same"


@given(phrases, phrases)
def test_every_right_reply_and_every_reply_that_holds_one_is_vetoed(one, other):
    assume(not {normalised(one), normalised(other)} & {"a", "an", "the"})  # "Añ" beside other words is an article
    question = asks(one, other)
    assert may_be_right(question, one) and may_be_right(question, other)
    assert may_be_right(asks(one), f"{one} {other}") and may_be_right(asks(f"{other} {one}"), one)


def test_another_choice_is_wrong_however_alike_it_looks():
    question = asks("A", "colour television", choices=("colour television", "color television", "radio"))
    assert not may_be_right(question, "B")
    assert may_be_right(question, "A") and may_be_right(question, "Colour television")


# Choices


@pytest.mark.parametrize(
    ("reply", "index"),
    [
        ("B", 1),
        ("b", 1),
        ("B.", 1),
        ("(B)", 1),
        ("B)", 1),
        ("B:", 1),
        ("B. Water", 1),
        ("(b) water", 1),
        ("Water", 1),
        ("the water.", 1),
        ("B. Milk", None),  # letter and text disagree
        ("E", None),
        ("Z. Water", None),
        ("Not water", None),
        ("A or B", None),
        ("Bread", None),
        ("", None),
        ("42", None),
    ],
)
def test_a_choice_is_named_by_its_letter_or_by_its_whole_text(reply, index):
    assert choice_index(reply, LIQUIDS) == index


def test_a_text_that_two_choices_share_names_neither():
    assert choice_index("water", ("Water", "water.", "Ink")) is None
    assert choice_index("ink", ("Water", "water.", "Ink")) == 2


def test_signs_tell_apart_choices_that_are_equal_without_them():
    roots = ("(x + 1)(x - 4)", "(x - 1)(x - 4)")
    assert [choice_index(text, roots) for text in roots] == [0, 1]
    assert choice_index("x 1 x 4", roots) is None


def test_a_reply_that_names_no_choice_is_wrong_even_where_the_data_names_none():
    question = asks("E", choices=LIQUIDS)
    assert not is_right(question, "no idea") and not is_right(question, "A")


def test_a_choice_whose_text_is_another_choices_letter_is_read_as_the_letter():
    vitamins = ("C", "A", "D", "B")
    assert [choice_index(letter, vitamins) for letter in "ABCD"] == [0, 1, 2, 3]


@given(st.lists(words, min_size=2, max_size=26, unique_by=normalised), st.data())
def test_every_choice_answers_to_its_letter_and_only_the_right_one_is_right(choices, data):
    right = data.draw(st.integers(0, len(choices) - 1))
    question = question_of_record({"question": "Which?", "choices": choices, "answer": right})
    judged = [is_right(question, LETTERS[i]) for i in range(len(choices))]
    assert judged == [i == right for i in range(len(choices))]
    assert is_right(question, f"{LETTERS[right]}. {choices[right]}")


# Files


def test_open_questions_keep_their_fields_and_their_order(open_questions):
    assert [question.id for question in open_questions[:2]] == ["young-cat", "young-dog"]
    assert len(open_questions) == 12
    dog = open_questions[1]
    assert (dog.text, dog.answers, dog.relation) == ("What is a young dog called?", ("Puppy", "Pup"), "young")
    assert {question.relation for question in open_questions} == {"young", "capital", "sides"}


def test_a_choice_question_is_right_by_letter_and_by_text(choice_questions):
    metal = choice_questions[0]
    assert (metal.answers, metal.choices[1], metal.relation) == (("B", "Iron"), "Iron", "matter")
    assert [is_right(metal, reply) for reply in ("B", "iron", "A", "Oxygen")] == [True, True, False, False]
    assert choice_questions[4].context.startswith("Ada took the early train.")


def test_a_users_own_response_and_confidence_are_taken_over(tmp_path):
    line = {"question": "Which?", "answers": "Mars", "response": "Venus", "confidence": 1}
    (question,) = loaded_questions(of_lines(tmp_path / "own.jsonl", json.dumps(line)))
    assert (question.response, question.confidence, question.answers) == ("Venus", 1.0, ("Mars",))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting"),
        ("not json", "Expecting"),
        ("[1, 2]", "not a JSON object"),
        ("null", "not a JSON object"),
        ('{"answers": ["x"]}', 'no "question"'),
        ('{"question": "", "answers": ["x"]}', 'no "question"'),
        ('{"question": 7, "answers": ["x"]}', 'no "question"'),
        ('{"question": "Q?"}', 'no "answers"'),
        ('{"question": "Q?", "answers": []}', 'no "answers"'),
        ('{"question": "Q?", "answers": ["", " "]}', 'no "answers"'),
        ('{"question": "Q?", "answers": ["..."]}', 'no "answers"'),
        ('{"question": "Q?", "answers": [1.5]}', '"answers" must be a list of texts'),
        ('{"question": "Q?", "answers": {"a": 1}}', '"answers" must be a list of texts'),
        ('{"question": "Q?", "choices": ["x", "y"]}', "index of one of 2 choices"),
        ('{"question": "Q?", "choices": ["x", "y"], "answer": 2}', "index of one of 2 choices"),
        ('{"question": "Q?", "choices": ["x", "y"], "answer": -1}', "index of one of 2 choices"),
        ('{"question": "Q?", "choices": ["x", "y"], "answer": "C"}', "index of one of 2 choices"),
        ('{"question": "Q?", "choices": ["x", "y"], "answer": 0.5}', "index of one of 2 choices"),
        ('{"question": "Q?", "choices": ["1", "0"], "answer": "1"}', "write an index"),
        (
            '{"question": "Q?", "choices": {"text": ["x", "y"], "label": ["A"]}, "answerKey": "A"}',
            "2 texts and 1 labels",
        ),
        ('{"question": "Q?", "answers": ["x"], "confidence": 85}', 'write 0.85 or "85%" if it is a percentage'),
        ('{"question": "Q?", "answers": ["x"], "confidence": 8.5}', 'write 0.085 or "8.5%" if it is a percentage'),
        ('{"question": "Q?", "answers": ["x"], "confidence": "850%"}', "number from 0 to 1"),
        ('{"question": "Q?", "choices": ["x", "y"], "answer": true}', "index of one of 2 choices"),
        ('{"question": "Q?", "choices": ["x", ""], "answer": 0}', '"choices" must be a list of texts'),
        ('{"question": "Q?", "choices": "xy", "answer": 0}', '"choices" must be a list of texts'),
        ('{"question": "Q?", "answers": ["x"], "confidence": 1.5}', "number from 0 to 1"),
        ('{"question": "Q?", "answers": ["x"], "confidence": NaN}', "NaN is not a finite number"),
        ('{"question": "Q?", "answers": ["x"], "confidence": "high"}', "number from 0 to 1"),
        ('{"question": "Q?", "answers": ["x"], "confidence": true}', "number from 0 to 1"),
        ('{"question": "Q?", "answers": ["x"], "response": ["x"]}', '"response"'),
        (f'{{"question": "Q?", "choices": {json.dumps([str(i) for i in range(27)])}, "answer": 0}}', "27 choices"),
        ('{"id": "a", "question": "Q \\udc9f?", "answers": ["x"]}', "surrogate"),
        ("[" * 100_000, "nested too deeply"),
        ('{"question": "Q?", "answers": ["x"], "context": 3}', '"context", "relation" and "subject" must be texts'),
        ('{"question": "Q?", "answers": ["x"], "subject": ["x"]}', '"context", "relation" and "subject" must be texts'),
        ('{"question": "Q?", "answers": ["x"], "id": ["x"]}', '"id" must be a text or a number'),
        ('{"question": "Q?", "answers": ["x"], "id": ' + "9" * 5000 + "}", "line 3"),
        ('{"question": "Q?", "answers": ["x"], "confidence": ' + "9" * 400 + "}", "line 3"),
    ],
)
def test_a_malformed_line_is_named_with_its_file_number_and_fault(tmp_path, line, reason):
    path = of_lines(tmp_path / "mine.jsonl", GOOD, "", line)
    with pytest.raises(UserError) as raised:
        loaded_questions(path)
    assert f"{path}, line 3" in str(raised.value) and reason in str(raised.value)


def test_a_file_that_is_not_utf8_says_so(tmp_path):
    with pytest.raises(UserError, match="UTF-8"):
        loaded_questions(of_lines(tmp_path / "latin.jsonl", '{"question": "Où?", "answers": ["là"]}'.encode("latin-1")))


@given(st.lists(st.one_of(st.just(GOOD.encode()), st.binary(max_size=40)), max_size=4))
@example([b"\xff"])
@example([b'{"question": "\\ud800", "answers": ["x"]}'])
@example([b'\xef\xbb\xbf{"question": "Q?", "answers": ["x"]}'])
def test_any_bytes_are_questions_or_one_sentence(tmp_path_factory, lines):
    path = of_lines(tmp_path_factory.mktemp("any") / "any.jsonl", *lines)
    try:
        assert all(isinstance(question, Question) for question in loaded_questions(path))
    except UserError as error:
        assert path in str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("id", "question", "answers", "choices", "answer", "context", "relation", "subject", "response", "confidence")


@given(st.dictionaries(st.sampled_from(FIELDS), json_values | st.just("Why?") | st.just(["x", "y"])))
def test_any_record_is_a_question_or_one_sentence(tmp_path_factory, record):
    path = of_lines(tmp_path_factory.mktemp("any") / "any.jsonl", json.dumps(record))
    try:
        questions = loaded_questions(path)
    except UserError as error:
        assert path in str(error)
    else:
        texts = record["question"] if isinstance(record["question"], list) else [record["question"]]
        assert [question.text for question in questions] == [text.strip() for text in texts]
        fingerprint(questions)


def test_the_same_id_twice_is_refused_by_name(tmp_path):
    line = '{"id": "mars", "question": "Which planet is red?", "answers": ["Mars"]}'
    other = line.replace("red", "fourth")
    with pytest.raises(UserError, match="'mars' stands there twice"):
        loaded_questions(of_lines(tmp_path / "twice.jsonl", line, other))
    assert len(loaded_questions(of_lines(tmp_path / "once.jsonl", line, other.replace("mars", "fourth")))) == 2


def test_questions_without_ids_get_ids_that_tell_them_apart_and_stay(tmp_path):
    lines = [GOOD, GOOD.replace("red", "blue"), '{"question": "Which?", "choices": ["a1", "b1"], "answer": 0}']
    lines.append(lines[2].replace("b1", "c1"))
    lines.append(lines[2].replace("{", '{"context": "Once.", '))
    ids = [question.id for question in loaded_questions(of_lines(tmp_path / "a.jsonl", *lines))]
    assert len(set(ids)) == 5
    again = [question.id for question in loaded_questions(of_lines(tmp_path / "b.jsonl", *reversed(lines)))]
    assert again == ids[::-1]


def test_an_id_of_zero_is_an_id(tmp_path):
    line = '{"id": 0, "question": "Which planet is red?", "answers": ["Mars"]}'
    assert loaded_questions(of_lines(tmp_path / "zero.jsonl", line))[0].id == "0"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("no/such/file.jsonl", "neither a file nor one of facts, triviaqa, mmlu, logiqa"),
        ("factz", "neither a file nor one of"),
        ("facts:validation", "the splits are train, test, unseen and final"),
        ("", "neither a file nor one of"),
    ],
)
def test_unknown_data_is_refused_with_what_there_is(data, reason):
    with pytest.raises(UserError, match=reason):
        loaded_questions(data)


def test_a_directory_and_an_empty_file_are_refused(tmp_path):
    with pytest.raises(UserError, match="neither a file"):
        loaded_questions(str(tmp_path))
    with pytest.raises(UserError, match="no questions in it"):
        loaded_questions(of_lines(tmp_path / "empty.jsonl", "", "  "))


def test_a_windows_file_and_a_byte_order_mark_are_read(tmp_path):
    path = of_lines(
        tmp_path / "windows.jsonl", b"\xef\xbb\xbf" + GOOD.encode() + b"\r", GOOD.replace("red", "blue") + "\r"
    )
    assert [question.answers for question in loaded_questions(path)] == [("Mars",), ("Mars",)]


def test_the_splits_of_the_embedded_facts_are_disjoint_and_complete():
    whole = {question.id for question in loaded_questions("facts")}
    names = ("train", "test", "unseen", "final")
    *parts, final = ({question.id for question in loaded_questions(f"facts:{part}")} for part in names)
    assert set.union(*parts) == whole and sum(map(len, parts)) == len(whole)
    assert final and not final & whole, "what is tested once, at the end, is in no other measurement"


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the extra `hub` is not installed")
def test_a_named_data_set_that_cannot_be_fetched_is_one_sentence(monkeypatch):
    import datasets

    def offline(*_args, **_options):
        raise ConnectionError("no network here\nand more")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(UserError, match=r"cais/mmlu could not be loaded \(no network here\); give a JSONL file"):
        loaded_questions("mmlu")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the extra `hub` is not installed")
def test_rows_of_the_hub_become_questions_with_the_cased_value_first(monkeypatch):
    import datasets

    rows = {
        "mandarjoshi/trivia_qa": {"question": "Red planet?", "answer": {"value": "Mars", "aliases": ["mars (planet)"]}},
        "cais/mmlu": {"question": "2+2?", "choices": ["3", "4"], "answer": 1, "subject": "sums"},
        "lucasmccabe/logiqa": {"context": "All.", "query": "Who?", "options": ["I", "You"], "correct_option": 0},
    }
    wrong = {f"distractor{i}": text for i, text in enumerate(("ice", "iron", "air"), 1)}
    rows["allenai/sciq"] = {"question": "What is wet?", "correct_answer": "water", "support": "", **wrong}
    monkeypatch.setattr(datasets, "load_dataset", lambda name, *_, **__: [rows[name]] * 40)
    sciq = loaded_questions("sciq")
    assert all(set(q.choices) == {"water", "ice", "iron", "air"} and q.answers[1] == "water" for q in sciq)
    assert {q.answers[0] for q in sciq} == {"A", "B", "C", "D"}, "the right one stands in every place"
    rows["mandarjoshi/trivia_qa"]["question_id"] = "tc_1"
    assert len(loaded_questions("triviaqa")) == 1, "once, however many kinds of evidence it has"
    trivia, mmlu, logiqa = (loaded_questions(name)[0] for name in ("triviaqa", "mmlu", "logiqa"))
    assert trivia.answers == ("Mars", "mars (planet)") and trivia.id == "triviaqa-tc_1"
    assert (mmlu.answers, mmlu.relation) == (("B", "4"), "sums")
    assert (logiqa.answers, logiqa.context, logiqa.text) == (("A", "I"), "All.", "Who?")


@pytest.mark.parametrize(
    ("name", "count", "choices"),
    [
        ("triviaqa_train.jsonl", 3600, 0),
        ("triviaqa_test.jsonl", 1013, 0),
        ("mmlu.jsonl", 2280, 4),
        ("logiqa_test.jsonl", None, 4),
        ("logiqa_validation.jsonl", None, 4),
    ],
)
def test_real_benchmark_files_load_whole_and_judge_their_own_answers_right(real_data, name, count, choices):
    questions = loaded_questions(str(real_data / name))
    lines = (real_data / name).read_text(encoding="utf-8").strip().count("\n") + 1
    assert len(questions) == lines and count in (None, lines)
    assert all(len(question.choices) == choices for question in questions)
    for question in questions[::20]:
        letters = LETTERS[: len(question.choices)]  # "B" for boron as the fourth choice is read as the letter
        accepted = [a for a in question.answers if normalised(a) and (a == question.answers[0] or a not in letters)]
        assert all(is_right(question, answer) for answer in accepted), question
        wrong = [letter for letter in letters if letter != question.answers[0]]
        assert not any(is_right(question, letter) for letter in wrong), question


# Order and identity


@given(st.integers(0, 5), st.permutations(range(8)))
def test_the_order_depends_on_the_seed_and_not_on_the_files_order(seed, order):
    questions = [Question(f"q{i}", "What?", ("x",)) for i in range(8)]
    assert shuffled([questions[i] for i in order], seed) == shuffled(questions, seed)


def test_seeds_give_different_orders_of_the_same_questions(open_questions):
    orders = [tuple(question.id for question in shuffled(open_questions, seed)) for seed in range(5)]
    assert len(set(orders)) == 5
    assert {tuple(sorted(order)) for order in orders} == {tuple(sorted(question.id for question in open_questions))}


def test_the_fingerprint_changes_with_any_field_of_any_question(open_questions):
    import dataclasses

    changes = {"id": "x", "text": "x", "answers": ("x",), "choices": ("x",), "context": "x", "relation": "x"}
    changes |= {"response": "x", "confidence": 0.5}
    assert changes.keys() == {field.name for field in dataclasses.fields(Question)}
    prints = {fingerprint(open_questions), fingerprint(open_questions[:-1])}
    for name, value in changes.items():
        changed = dataclasses.replace(open_questions[5], **{name: value})
        prints.add(fingerprint([*open_questions[:5], changed, *open_questions[6:]]))
    assert len(prints) == 2 + len(changes)
    assert fingerprint(open_questions[::-1]) == fingerprint(open_questions)


def test_the_impossible_question_cannot_be_made():
    with pytest.raises(ValueError, match="no text"):
        Question("q", " ", ("x",))
    with pytest.raises(ValueError, match="no answer"):
        Question("q", "What?", ("", " "))
    for confidence in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="outside"):
            Question("q", "What?", ("x",), confidence=confidence)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("U.S.", "US"),
        ("S.C.", "sc"),
        ("J. K. Rowling", "J.K. Rowling"),
        ("J K Rowling", "J.K. Rowling"),
        ("A S Byatt", "A.S. Byatt"),
    ],
)
def test_initials_are_one_word_however_they_are_dotted(one, other):
    assert normalised(one) == normalised(other)


def test_a_word_made_from_a_right_answer_is_no_wrong_answer():
    question = Question("q", "On which continent is Kenya?", ("Africa",))
    assert may_be_right(question, "African continent") and may_be_right(question, "Africa.")
    assert not is_right(question, "African continent") and not may_be_right(question, "Asia")
    number = Question("q", "How many?", ("1000",))
    assert not may_be_right(number, "10000")
