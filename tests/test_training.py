"""Training from end to end on small models: packed rows are exact, and the objective does what it says."""

import json
from itertools import pairwise

import pytest
import torch

from interp.errors import UserError
from interp.formats import FORMATS
from interp.questions import is_right, may_be_right
from interp.setting import prepared
from training.advice import Advice, Weights, mini_batches, split, trained
from training.losses import advice_losses
from training.packing import packed_row
from training.triplets import FORMATS_TRAINED, Triplet, Triplets, alike, built, loaded_triplets

KINDS = ["llama", "mistral", "gemma2", "qwen2", "gemma3"]


def triplets_of(questions, form="ScoreNumber") -> list[Triplet]:
    """Each question with its own answer and the next question's."""
    return [Triplet(q, q.answers[0], other.answers[0], form) for q, other in pairwise((*questions, questions[0]))]


def whole_texts(setting, transcripts) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: each level of each transcript from a plain pass over its whole text, and the answers."""
    model, stops = setting.checkpoint.model, list(setting.checkpoint.stops)
    levels, answers = [], []
    for transcript in transcripts:
        found, before = [], len(transcript.ids)
        for suffix in setting.prompter.level_suffixes(transcript):
            ids = torch.tensor([[*transcript.ids, *suffix]])
            said = model(ids, use_cache=False).logits[0].log_softmax(-1)
            found.append(
                sum(said[i - 1, ids[0, i]] for i in range(before, ids.shape[1])) + said[-1, stops].logsumexp(-1)
            )
        levels.append(torch.stack(found).log_softmax(-1))
        spoken = transcript.positions("answer")
        answers.append(sum(said[i - 1, transcript.ids[i]] for i in (*spoken, spoken[-1] + 1)))
    return torch.stack(levels), torch.stack(answers)


@pytest.mark.parametrize("family", KINDS)
def test_a_packed_row_gives_the_loss_and_the_gradients_of_separate_sequences(tiny_loaded, open_questions, family):
    setting = prepared(tiny_loaded(family), FORMATS["ScoreLetter"], shots=1, read_opening=False)
    transcripts = [
        setting.prompter.transcript(t.question, answer)
        for t in triplets_of(open_questions[:3])
        for answer in (t.right, t.wrong)
    ]
    model, values = setting.checkpoint.model, torch.tensor(FORMATS["ScoreLetter"].values)
    weight = next(p for name, p in model.named_parameters() if name.endswith("layers.1.self_attn.v_proj.weight"))
    weight.requires_grad_(True)
    try:
        row, results = packed_row(setting, transcripts), []
        assert row.inputs["input_ids"].shape[1] < 0.5 * sum(len(t.ids) for t in transcripts)
        for packed in (True, False):
            if packed:
                logits = model(**row.inputs, use_cache=False).logits[0]
                levels, answers = row.level_logprobs(logits), row.answer_logprobs(logits)
            else:
                levels, answers = whole_texts(setting, transcripts)
            terms = advice_losses(levels[0::2], levels[1::2], answers[0::2], values, Weights())
            loss = terms["total"].mean()
            results.append((loss.item(), torch.autograd.grad(loss, weight)[0]))
    finally:
        weight.requires_grad_(False)
    (loss, gradient), (plain, plainly) = results
    assert loss == pytest.approx(plain, abs=1e-4)
    assert (gradient - plainly).norm() / plainly.norm() < 1e-3 and plainly.norm() > 0


@pytest.fixture
def triplet_file(tmp_path, open_questions):
    """A file of triplets over our own questions, as `training.triplets` writes it."""
    path = tmp_path / "triplets.jsonl"
    rows = [
        {
            "id": t.question.id,
            "question": t.question.text,
            "answers": t.question.answers,
            "relation": t.question.relation,
        }
        | {"right": t.right, "wrong": t.wrong, "format": form}
        for form in FORMATS_TRAINED
        for t in triplets_of(open_questions)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_training_teaches_a_model_to_tell_its_right_answers_from_its_wrong_ones(
    tiny_checkpoint, triplet_file, tmp_path
):
    from interp.checkpoints import loaded_checkpoint

    out = trained(
        Advice(
            ckpt=str(tiny_checkpoint("llama")), triplets=triplet_file, out=tmp_path / "advice", lr=3e-2, epochs=12,
            batch=6, accumulation=1, held_out=2, every=24, weights=Weights(lm=0.0), shots=0, shot_sets=1, device="cpu",
        )
    )  # fmt: skip
    curve = [json.loads(line) for line in (out / "curve.jsonl").read_text().splitlines()]
    terms = json.loads((out / "terms.json").read_text())
    assert curve[0]["update"] == 0 and curve[-1]["update"] == len(terms) == 48
    before, after = (
        {name: sum(t[name] for t in part) for name in ("total", "margin", "jsd")} for part in (terms[:6], terms[-6:])
    )
    assert after["total"] < 0.95 * before["total"] and after["margin"] < before["margin"], (before, after)
    adapter = loaded_checkpoint(str(out), device="cpu")
    assert type(adapter.model).__name__.startswith("PeftModel")
    assert not list(out.rglob("*.bin")) and not list(out.rglob("*.pt"))


def test_mini_batches_hold_one_format_and_every_triplet_once_an_epoch(triplet_file):
    triplets = loaded_triplets(triplet_file)
    options = Advice(triplets=triplet_file, epochs=3, batch=5, shot_sets=4)
    batches = mini_batches(triplets, options)
    assert all(len({t.format for t in batch.triplets}) == 1 and len(batch.triplets) <= 5 for batch in batches)
    seen = [(t.question.id, t.format) for batch in batches for t in batch.triplets]
    assert sorted(seen) == sorted([(t.question.id, t.format) for t in triplets] * 3)
    assert {batch.shot_seed for batch in batches} <= set(range(4)) and batches == mini_batches(triplets, options)
    assert batches != mini_batches(triplets, Advice(triplets=triplet_file, epochs=3, batch=5, shot_sets=4, seed=1))


def test_no_question_is_both_trained_on_and_held_out(triplet_file):
    triplets = loaded_triplets(triplet_file)
    train, held = split(triplets, Advice(triplets=triplet_file, held_out=4))
    assert len(train) == 16 and len(held) == 8
    assert not {t.question.id for t in train} & {t.question.id for t in held}
    with pytest.raises(UserError, match="there are only 12 questions"):
        split(triplets, Advice(triplets=triplet_file, held_out=12))


@pytest.mark.parametrize(
    ("right", "wrong", "made"),
    [
        ("Paris", "lyon.", ("Paris", "Lyon")),
        ("paris.", "Lyon", ("paris", "lyon")),
        ("8", "nine!", ("8", "nine")),
        ("U.S.", "Peru", ("U.S", "Peru")),
        ("...", "Oslo", ("...", "Oslo")),
    ],
)
def test_letter_case_and_final_punctuation_do_not_tell_right_from_wrong(right, wrong, made):
    assert alike(right, wrong) == made


def test_triplets_are_the_models_own_right_and_wrong_answers(taught_checkpoint, own_data, tmp_path, open_questions):
    options = Triplets(
        ckpt=str(taught_checkpoint),
        data=(str(own_data / "open.jsonl"),),
        out=tmp_path / "t.jsonl",
        shots=0,
        device="cpu",
    )
    triplets = loaded_triplets(built(options))
    by_id = {question.id: question for question in open_questions}
    assert len(triplets) >= 4 and {t.format for t in triplets} == set(FORMATS_TRAINED)
    for triplet in triplets:
        question = by_id[triplet.question.id]
        assert is_right(question, triplet.right) and not may_be_right(question, triplet.wrong)
    counts = json.loads((tmp_path / "t.jsonl.run" / "summary.json").read_text())["triplets"]
    assert counts["asked"] == 12 and counts["kept"] + counts["without_wrong_answer"] == counts["right"]
    assert counts["kept"] == len(triplets) / 2
    before = (tmp_path / "t.jsonl").read_text()
    assert built(options).read_text() == before, "repeated, it writes the same"


def test_a_file_that_holds_no_triplets_is_refused_with_the_line(triplet_file, tmp_path):
    lines = triplet_file.read_text().split("\n")
    for broken in ('{"id": "x"}', "not json", lines[0].replace("ScoreLetter", "ScoreWord")):
        (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], broken]))
        with pytest.raises(UserError, match=r"bad\.jsonl, line 2: not a triplet"):
            loaded_triplets(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no triplets in it"):
        loaded_triplets(tmp_path / "bad.jsonl")
