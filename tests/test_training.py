"""Training from end to end on small models: packed rows are exact, and the objective does what it says."""

import copy
import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from conftest import triplets_of, written_levels
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from scipy.spatial.distance import jensenshannon
from test_safety import pickled

from figures.report import reported
from figures.training import ahead, settings_grid
from interp.datasets.grading import is_right, may_be_right
from interp.errors import UserError
from interp.formats import FORMATS
from interp.intervals import estimated
from interp.models.checkpoints import Loading, loaded_checkpoint
from interp.models.head import next_token
from interp.models.prompts import Prompting
from interp.models.setting import prepared
from interp.options import composed, flat
from interp.pipelines.evaluation import SHARED
from interp.run.runs import read_records, read_run
from training import adapters, advice, conftuner
from training.__main__ import experiment
from training.ablation import ROWS, Ablation, ablated
from training.adapters import WEIGHTS, saved_adapter
from training.advice import Advice
from training.batches import MiniBatch, mini_batches, split
from training.experiment import FILES, Experiment, steps
from training.loop import ObjectiveTrainer, Watch, with_adapter
from training.losses import advice_losses
from training.objectives import AdviceObjective, ConfTunerObjective
from training.packing import packed_row
from training.recipes import ADVICE_RECIPES, CONFTUNER_RECIPES, Weights, filled_in, preset_for
from training.schedule import run_side_by_side
from training.triplets import (
    FORMATS_TRAINED,
    GradedAnswer,
    Triplets,
    _greedy_wrong,
    _triplets,
    alike,
    answers_beside,
    built,
    in_formats,
    loaded_answers,
    loaded_triplets,
)

UNEQUAL = replace(ADVICE_RECIPES["paper"], lm=0.1, jsd=0.2, margin=3.0, sum=0.3, jsd_wanted=0.3, margin_wanted=0.5)
"""The paper's recipe with weights that differ, so that no term can stand for another."""
KINDS = ["llama", "mistral", "gemma2", "qwen2", "gemma3"]


def whole_texts(setting, transcripts) -> tuple[torch.Tensor, torch.Tensor]:
    """The definition: each level of each transcript from a plain pass over its whole text, and the answers."""
    model, stops = setting.checkpoint.model, list(setting.stops)
    levels, answers = [], []
    for transcript in transcripts:
        found, before = [], len(transcript.ids)
        for ways in written_levels(setting, transcript):
            stated = []
            for suffix in ways:
                ids = torch.tensor([[*transcript.ids, *suffix]])
                said = model(ids, use_cache=False).logits[0].log_softmax(-1)
                written = sum(said[i - 1, ids[0, i]] for i in range(before, ids.shape[1]))
                stated.append(written + said[-1, stops].logsumexp(-1))
            found.append(torch.stack(stated).logsumexp(0))
        levels.append(torch.stack(found))
        spoken = transcript.positions("answer")
        answers.append(sum(said[i - 1, transcript.ids[i]] for i in (*spoken, spoken[-1] + 1)))
    return torch.stack(levels), torch.stack(answers)


@pytest.mark.slow
@pytest.mark.parametrize(("family", "form"), [*((kind, "ScoreLetter") for kind in KINDS), ("llama", "ScorePercent")])
def test_a_packed_row_gives_the_loss_and_the_gradients_of_separate_sequences(tiny_loaded, open_questions, family, form):
    setting = prepared(tiny_loaded(family), FORMATS[form], shots=1, read_shared_prefix=False)
    transcripts = [
        setting.prompter.transcript(t.question, answer)
        for t in triplets_of(open_questions[:3])
        for answer in (t.right, t.wrong)
    ]
    model, values = setting.checkpoint.model, torch.tensor(FORMATS[form].values)
    weight = next(p for name, p in model.named_parameters() if name.endswith("layers.1.self_attn.v_proj.weight"))
    weight.requires_grad_(True)
    try:
        row, results = packed_row(setting, transcripts), []
        levels = [len(one) for t in transcripts for ways in written_levels(setting, t) for one in ways]
        assert row.inputs["input_ids"].shape[1] < 0.5 * (sum(len(t.ids) for t in transcripts) + sum(levels))
        for packed in (True, False):
            if packed:
                levels, answers = row.logprobs(next_token(model, **row.inputs, use_cache=False).of_row(0))
            else:
                levels, answers = whole_texts(setting, transcripts)
            levels = levels.log_softmax(-1)
            terms = advice_losses(levels[0::2], levels[1::2], answers[0::2], values, Weights())
            loss = terms["total"].mean()
            results.append((loss.item(), torch.autograd.grad(loss, weight)[0]))
    finally:
        weight.requires_grad_(False)
    (loss, gradient), (plain, plainly) = results
    assert loss == pytest.approx(plain, abs=1e-4)
    assert (gradient - plainly).norm() / plainly.norm() < 1e-3 and plainly.norm() > 0


@pytest.mark.parametrize("levels", ["whole", "token"])
def test_a_packed_row_reads_levels_as_the_measurement_does(tiny_loaded, open_questions, levels):
    setting = prepared(
        tiny_loaded("llama"), FORMATS["ScoreNumber"], prompting=Prompting(levels=levels), read_shared_prefix=False
    )
    transcripts = [setting.prompter.transcript(t.question, t.right) for t in triplets_of(open_questions[:3])]
    row = packed_row(setting, transcripts)
    with torch.no_grad():
        found, _ = row.logprobs(next_token(setting.checkpoint.model, **row.inputs, use_cache=False).of_row(0))
    for one, reading in zip(found, setting.reader.readings(transcripts), strict=True):
        assert one.softmax(-1).tolist() == pytest.approx(reading.distribution.probability, abs=1e-5)
        assert 1 - one.exp().sum().item() == pytest.approx(reading.distribution.off_scale, abs=1e-5)
    assert levels == "whole" or row.plan.level_ends.numel() == 0


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS_TRAINED)
def test_the_terms_of_both_objectives_are_what_their_definitions_give_of_whole_texts(tiny_loaded, open_questions, form):
    checkpoint, triplets = tiny_loaded("llama"), triplets_of(open_questions[:3], form)
    values = torch.tensor(FORMATS[form].values)
    recipe = replace(UNEQUAL, mass=0.7)
    contrast = AdviceObjective(checkpoint, 1, recipe)
    put = [(t.question, answer) for t in triplets for answer in (t.right, t.wrong)]
    setting = prepared(checkpoint, FORMATS[form], shots=1, read_shared_prefix=False)
    with torch.no_grad():
        levels, answers = whole_texts(setting, [setting.prompter.transcript(*one) for one in put])
        found = contrast.terms(checkpoint.model, contrast.inputs(MiniBatch(tuple(triplets), 0)))
    means = levels.softmax(-1) @ values
    right, wrong, off_scale = means[0::2], means[1::2], -levels.logsumexp(-1)
    assert torch.allclose(found["lm"], -recipe.lm * answers[0::2], atol=1e-4)
    assert torch.allclose(
        found["margin"], recipe.margin * (recipe.margin_wanted - right + wrong).clamp(min=0), atol=1e-4
    )
    apart = jensenshannon(levels.softmax(-1)[0::2], levels.softmax(-1)[1::2], axis=-1) ** 2
    assert np.allclose(found["jsd"], recipe.jsd * (recipe.jsd_wanted - apart).clip(min=0), atol=1e-4)
    assert torch.allclose(found["sum"], recipe.sum * (1 - right - wrong).abs(), atol=1e-4)
    assert torch.allclose(found["mass"], 0.7 * (off_scale[0::2] + off_scale[1::2]) / 2, atol=1e-4)
    assert found["mass"].min() > 0 and (right - wrong).abs().max() > 1e-4
    parts = [found[name] for name in ("lm", "jsd", "margin", "sum", "mass")]
    assert torch.allclose(found["total"], sum(parts), atol=1e-5)

    graded = [GradedAnswer(q, answer, number % 2 == 0, form) for number, (q, answer) in enumerate(put)]
    tuner = ConfTunerObjective(checkpoint, 1, replace(CONFTUNER_RECIPES["paper"], mass=0.7))
    with torch.no_grad():
        found = tuner.terms(checkpoint.model, tuner.inputs(MiniBatch(tuple(graded), 0)))
    outcome = torch.tensor([float(one.right) for one in graded])
    score = (levels.softmax(-1) * (outcome[:, None] - values) ** 2).sum(-1)
    assert torch.allclose(found["brier"], score, atol=1e-4)
    assert torch.allclose(found["total"], score + 0.7 * off_scale, atol=1e-4)
    likely = ConfTunerObjective(checkpoint, 1, replace(CONFTUNER_RECIPES["paper"], mass=0.7, likelihood=0.3))
    with torch.no_grad():
        with_likelihood = likely.terms(checkpoint.model, likely.inputs(MiniBatch(tuple(graded), 0)))
    tokens = [len(setting.prompter.transcript(*one).positions("answer")) + 1 for one in put]
    means_of_right = outcome * -answers / torch.tensor(tokens)
    assert torch.allclose(with_likelihood["likelihood"], 0.3 * means_of_right, atol=1e-4) and means_of_right.max() > 0
    assert torch.allclose(with_likelihood["total"], found["total"] + with_likelihood["likelihood"], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_terms_that_are_not_the_papers_are_what_their_definitions_give_of_whole_texts(
    tiny_loaded, open_questions, family
):
    """Invariance against the variants' own texts; the divergence from the base token by token, in two plain passes."""
    plain = tiny_loaded(family)
    recipe = replace(UNEQUAL, mass=0.7, invariance=2.0, kl=0.5, targets=("q_proj", "v_proj", "down_proj"))
    checkpoint = replace(plain, model=copy.deepcopy(plain.model))
    model = with_adapter(checkpoint, recipe, 0)
    chance = torch.Generator().manual_seed(0)
    for weight in (weight for weight in model.parameters() if weight.requires_grad):
        weight.data = 0.05 * torch.randn(weight.shape, generator=chance)
    objective = AdviceObjective(replace(checkpoint, model=model), 1, recipe)
    batch = MiniBatch(tuple(triplets_of(open_questions[:3])), 0)
    put = [(t.question, a) for t in batch.examples for a in objective._answers(t, batch, "ScoreNumber")]
    assert len(put) == 12 and all(put[i][1] != put[i + 2][1] for i in (0, 1, 4, 5, 8, 9))
    inputs = objective.inputs(batch)
    found = objective.terms(model, inputs)
    without = AdviceObjective(replace(checkpoint, model=model), 1, replace(recipe, invariance=0.0, kl=0.0))
    bare = without.terms(model, without.inputs(batch))
    setting = prepared(replace(checkpoint, model=model), FORMATS["ScoreNumber"], shots=1, read_shared_prefix=False)
    transcripts = [setting.prompter.transcript(*one) for one in put]
    with torch.no_grad():
        levels, _ = whole_texts(setting, transcripts)
        chances, off_scale = levels.softmax(-1), -levels.logsumexp(-1)
        moved = []
        for transcript in transcripts:
            ids = torch.tensor([transcript.ids])
            trained = model(ids, use_cache=False).logits[0].float().log_softmax(-1)
            base = plain.model(ids, use_cache=False).logits[0].float().log_softmax(-1)
            spoken = transcript.positions("answer")
            before = [i - 1 for i in (*spoken, spoken[-1] + 1)]
            moved.append((base[before].exp() * (base[before] - trained[before])).sum(-1).mean())
    apart = [jensenshannon(chances[i::4], chances[i + 2 :: 4], axis=-1) ** 2 for i in (0, 1)]
    assert np.allclose(found["invariance"].detach(), 2.0 * (apart[0] + apart[1]) / 2, atol=1e-4)
    moved = torch.stack(moved)
    assert torch.allclose(found["kl"], 0.5 * moved.view(3, 4).mean(1), atol=1e-4) and moved.min() > 1e-3
    assert torch.allclose(found["mass"], 0.7 * off_scale.view(3, 4).mean(1), atol=1e-4)
    for name in ("lm", "jsd", "margin", "sum"):
        assert torch.allclose(found[name], bare[name], atol=1e-4), "variants enter none of the paper's terms"
    assert (
        torch.allclose(found["total"], sum(term for name, term in found.items() if name != "total"), atol=1e-5)
        and "invariance" not in bare
    )
    rewritten = AdviceObjective(replace(checkpoint, model=model), 1, replace(recipe, variants=1.0))
    assert not rewritten.terms(model, rewritten.inputs(batch))["lm"].any(), "a rewritten answer is not learned"
    gradients = torch.autograd.grad(found["kl"].sum(), [w for w in model.parameters() if w.requires_grad])
    assert any(gradient.abs().max() > 0 for gradient in gradients)


def test_reading_the_base_leaves_which_adapter_learns_as_it_is(tiny_checkpoint, tmp_path, open_questions):
    base = tiny_checkpoint("llama")
    first = first_adapter(str(base), tmp_path / "first", r=2, target_modules=["q_proj", "v_proj"])
    checkpoint = loaded_checkpoint(str(first), Loading(device="cpu", training=True))
    recipe = replace(SMALL_RECIPE, kl=1.0, targets=("q_proj",))
    model = with_adapter(checkpoint, recipe, 0)
    learns = {name: weight.requires_grad for name, weight in model.named_parameters()}
    examples = [GradedAnswer(q, q.answers[0], True, "ScoreNumber") for q in open_questions[:2]]
    objective = ConfTunerObjective(replace(checkpoint, model=model), 1, recipe)
    terms = objective.terms(model, objective.inputs(MiniBatch(tuple(examples), 0)))
    assert terms["kl"].min() > 0, "the first adapter has moved the answers from the base"
    assert {name: weight.requires_grad for name, weight in model.named_parameters()} == learns and any(learns.values())


@pytest.mark.parametrize("kind", [AdviceObjective, ConfTunerObjective])
def test_where_levels_are_read_by_one_token_the_end_of_their_line_is_learned(tiny_loaded, open_questions, kind):
    """Held to plain passes over the texts up to one level of each transcript."""
    checkpoint, form = tiny_loaded("llama"), FORMATS["ScoreNumber"]
    recipes = ADVICE_RECIPES if kind is AdviceObjective else CONFTUNER_RECIPES
    triplets = triplets_of(open_questions[:3])
    examples = [GradedAnswer(t.question, t.right, True, t.format) for t in triplets]
    batch = MiniBatch(tuple(triplets if kind is AdviceObjective else examples), 0)
    recipe, put = replace(recipes["paper"], mass=0.7), [(t.question, t.right) for t in triplets]
    if kind is AdviceObjective:
        put = [(t.question, answer) for t in triplets for answer in (t.right, t.wrong)]
    objective = kind(checkpoint, 1, recipe, Prompting(levels="token"))
    with torch.no_grad():
        terms = objective.terms(checkpoint.model, objective.inputs(batch))
    setting = prepared(checkpoint, form, shots=1, prompting=Prompting(levels="token"), read_shared_prefix=False)
    stated, ends = objective.stated("ScoreNumber", batch, len(put)), []
    assert len(stated) == len(put) and len(set(stated)) > 1
    for (question, answer), level in zip(put, stated, strict=True):
        transcript = setting.prompter.transcript(question, answer)
        ids = torch.tensor([[*transcript.ids, *setting.prompter.level_suffixes(transcript)[level]]])
        with torch.no_grad():
            said = checkpoint.model(ids, use_cache=False).logits[0, -1].log_softmax(-1)
        ends.append(said[list(setting.stops)].logsumexp(-1))
    per = len(put) // 3
    assert torch.allclose(terms["end"], 0.7 * -torch.stack(ends).view(3, per).mean(1), atol=1e-4)
    parts = sum(term for name, term in terms.items() if name != "total")
    assert torch.allclose(terms["total"], parts, atol=1e-4) and terms["end"].min() > 0
    whole = kind(checkpoint, 1, recipe)
    assert whole.stated("ScoreNumber", batch, 6) == [] and "end" not in whole.terms(
        checkpoint.model, whole.inputs(batch)
    )


def test_a_margin_that_grows_is_wanted_by_how_far_training_is(tiny_loaded, open_questions, options):
    checkpoint, triplets = tiny_loaded("llama"), triplets_of(open_questions[:3])
    growing = replace(UNEQUAL, margin_wanted=0.5, margin_from=0.1)
    objective = AdviceObjective(checkpoint, 1, growing)
    wanted = [
        objective.inputs(MiniBatch(tuple(triplets), 0, progress=progress))["weights"].margin_wanted
        for progress in (0.0, 0.5, 0.99)
    ]
    assert wanted == pytest.approx([0.1, 0.3, 0.496])
    batches = mini_batches(triplets, replace(growing, batch=1, epochs=2, updates=None), options())
    assert [batch.progress for batch in batches] == [place / 6 for place in range(6)]


@pytest.mark.slow
def test_relations_that_are_left_out_are_neither_trained_on_nor_held_out(options, triplet_file):
    relations = sorted({t.question.relation for t in loaded_triplets(triplet_file)})
    assert len(relations) > 1, relations
    out = advice.trained(options(updates=1, without=(relations[0],)))
    whole = advice.trained(options(updates=1, out=out.with_name("whole")))
    counted = [read_run(folder)[1]["training"] for folder in (out, whole)]
    left_out = sum(t.question.relation == relations[0] for t in loaded_triplets(triplet_file))
    counts = [one["examples"] + one["held_out"] for one in counted]
    assert counts[1] - counts[0] == left_out > 0
    with pytest.raises(UserError, match=r"--without capitol: not among the relations of .*: "):
        advice.trained(options(without=("capitol",)))


@pytest.mark.slow
def test_greedy_wrong_triplets_and_right_answers_get_the_share_that_is_asked_for(options, triplet_file):
    rows = [json.loads(line) for line in triplet_file.read_text().splitlines()]
    for row in rows[: len(rows) // 4]:
        row["sources"] = ["greedy"]
    triplet_file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert sum(t.greedy_wrong for t in loaded_triplets(triplet_file)) == len(rows) // 4

    def trained_on(kind: type, mark: str, train, given) -> list[bool]:
        """The mark of each example that a training takes."""
        marks: list[bool] = []
        inputs = kind.inputs

        def spied(self, batch):
            marks.extend(getattr(example, mark) for example in batch.examples)
            return inputs(self, batch)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kind, "inputs", spied)
            patch.setattr(kind, "point_of", lambda *_: {"outside": estimated([0.5, 0.5])})
            train(given)
        return marks

    greedy = trained_on(AdviceObjective, "greedy_wrong", advice.trained, options(epochs=4, greedy_wrong_share=0.5))
    assert 0.4 < sum(greedy) / len(greedy) < 0.6
    asked = options(conftuner.ConfTuner, epochs=2, balanced=True, out=options().output.out / "tuner")
    right = trained_on(ConfTunerObjective, "right", conftuner.trained, asked)
    assert sum(right) == len(right) / 2


def test_the_option_lm_mean_divides_the_term_by_the_tokens_of_the_answer_and_nothing_else(tiny_loaded, open_questions):
    checkpoint, triplets = tiny_loaded("llama"), tuple(triplets_of(open_questions[:3]))
    prompter = prepared(checkpoint, FORMATS["ScoreNumber"], shots=1, read_shared_prefix=False).prompter
    # the end of the answer's line is a token of it, as in the sum
    spoken = [len(prompter.transcript(t.question, t.right).positions("answer")) + 1 for t in triplets]
    assert len(set(spoken)) > 1
    given = [composed(Advice, triplets=Path("t"), **mean) for mean in ({}, {"lm_mean": True})]
    terms = []
    for recipe in (filled_in(ADVICE_RECIPES["paper"], options) for options in given):
        objective = AdviceObjective(checkpoint, 1, recipe)
        with torch.no_grad():
            terms.append(objective.terms(checkpoint.model, objective.inputs(MiniBatch(triplets, 0))))
    summed, mean = terms
    assert (summed["lm"] / mean["lm"]).tolist() == pytest.approx(spoken)
    assert all(torch.equal(summed[name], mean[name]) for name in ("jsd", "margin", "sum", "mass"))
    assert torch.allclose(summed["total"] - mean["total"], summed["lm"] - mean["lm"], atol=1e-4)


@pytest.mark.slow
def test_the_gradient_of_the_whole_objective_is_that_of_finite_differences(tiny_loaded, open_questions):
    checkpoint = tiny_loaded("gpt_neox")  # a family whose norms are computed in float64 as well
    recipe = replace(ADVICE_RECIPES["paper"], targets=("query_key_value", "dense"))
    model = with_adapter(replace(checkpoint, model=copy.deepcopy(checkpoint.model).double()), recipe, 0).double()
    objective = AdviceObjective(replace(checkpoint, model=model), 1, recipe)
    inputs = objective.inputs(MiniBatch(tuple(triplets_of(open_questions[:4])), 0))
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    chance = torch.Generator().manual_seed(0)
    for weight in weights:  # away from the start, where half of them have no effect
        weight.data = 0.1 * torch.randn(weight.shape, generator=chance, dtype=torch.float64)

    def loss() -> torch.Tensor:
        row, values = inputs["row"], inputs["values"].double()
        levels, answers = row.logprobs(next_token(model, **row.inputs, use_cache=False).of_row(0))
        levels = levels.log_softmax(-1)
        return advice_losses(levels[0::2], levels[1::2], answers[0::2], values, recipe)["total"].mean()

    gradients = torch.autograd.grad(loss(), weights)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    for _ in range(3):
        ways = [torch.randn(weight.shape, generator=chance, dtype=torch.float64) for weight in weights]
        slope = sum((gradient * way).sum() for gradient, way in zip(gradients, ways, strict=True)).item()
        found = []
        for step in (1e-5, -2e-5):
            for weight, way in zip(weights, ways, strict=True):
                weight.data += step * way
            with torch.no_grad():
                found.append(loss().item())
        for weight, way in zip(weights, ways, strict=True):
            weight.data += 1e-5 * way
        assert (found[0] - found[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)


@pytest.fixture
def options(tiny_checkpoint, triplet_file, tmp_path):
    """options(**changes): a short training of a small model, without diagnoses."""

    def made(kind=Advice, **changes):
        file = {"triplets": triplet_file} if kind in (Advice, Ablation) else {"answers": answers_beside(triplet_file)}
        short = {"lr": 1e-2, "batch": 5, "accumulation": 2, "epochs": 3, "held_out": 2, "every": 2, "dropout": 0.1}
        quiet = {"shots": 0, "shot_sets": 1, "device": "cpu", "diagnose": 0, "report_to": ()}
        given = {"ckpt": str(tiny_checkpoint("llama")), "out": tmp_path / "run", **file, **short, **quiet}
        if kind is Ablation:
            del given["diagnose"]
        return composed(kind, **given | changes)

    return made


def of_run(folder, measure):
    return [record for record in read_records(folder) if record["measure"] == measure]


@pytest.mark.slow
def test_training_teaches_a_model_to_tell_its_right_answers_from_its_wrong_ones(options):
    out = advice.trained(
        options(lr=1e-2, epochs=12, batch=6, accumulation=1, every=24, lm=0.0, dropout=0.0, report_to=("tensorboard",))
    )
    curve, terms = of_run(out, "curve"), of_run(out, "update")
    assert [point["id"] for point in curve] == ["0", "24", "48"] and len(terms) == 48
    before, after = (
        {name: sum(t[name] for t in part) for name in ("total", "margin", "jsd")} for part in (terms[:6], terms[-6:])
    )
    assert after["total"] < 0.5 * before["total"] and after["margin"] < 0.5 * before["margin"], (before, after)
    for form in FORMATS_TRAINED:
        first = curve[0]["formats"][form]
        assert {"right", "wrong", "direction_positive", "jsd", "near_zero_share", "wrong_wrong"} < set(first)
        assert first["right"]["n"] == 2, "one value for each held-out question"
        assert first["answer_rank"]["value"] >= 1 and first["answer_rank"]["n"] == 2
    assert list((out / "tensorboard").glob("events.*"))
    adapter = loaded_checkpoint(str(out), Loading(device="cpu"))
    assert type(adapter.model).__name__.startswith("PeftModel")
    assert not [path for ending in ("*.bin", "*.pt", "*.pth") for path in out.rglob(ending)]
    assert {weight.dtype for weight in load_file(out / WEIGHTS).values()} == {torch.float16}
    card = (out / "README.md").read_text()
    assert f"| lr | {1e-2} |" in card and "48 updates" in card and "--lm 0.0" in card


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_twice_the_accumulation(options, tmp_path):
    alone = options(accumulation=2, updates=4, dropout=0.0)
    updates = of_run(advice.trained(alone), "update")
    together = tmp_path / "together"
    given = {"ckpt": alone.ckpt, "triplets": alone.triplets, "out": together, "lr": 1e-2, "batch": 5}
    given |= {"epochs": 3, "held-out": 2, "every": 2, "updates": 4, "accumulation": 1, "dropout": 0.0}
    given |= {"shots": 0, "shot-sets": 1, "device": "cpu", "diagnose": 0}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    launch = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "training.advice", *flags]
    told = subprocess.run(
        [sys.executable, "-m", *launch, "--report-to"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert told.returncode == 0, told.stderr[-3000:]
    found = of_run(together, "update")
    assert [one["id"] for one in found] == [one["id"] for one in updates] == ["1", "2", "3", "4"]
    for one, other in zip(found, updates, strict=True):
        assert one["total"] == pytest.approx(other["total"], abs=1e-4)
    assert (together / "README.md").exists() and len(of_run(together, "curve")) == len(
        of_run(alone.output.out, "curve")
    ) == 3
    one, other = load_file(together / WEIGHTS), load_file(alone.output.out / WEIGHTS)
    assert all(torch.allclose(one[name], other[name], atol=1e-3) for name in one)


@pytest.mark.slow
def test_a_run_that_is_killed_continues_to_the_same_adapter_bit_for_bit(options, tmp_path, monkeypatch):
    whole = advice.trained(options(out=tmp_path / "whole"))
    updates, _ = of_run(whole, "update"), monkeypatch.setattr(Watch, "on_step_end", killed_at(5))
    with pytest.raises(KeyboardInterrupt):
        advice.trained(options())
    monkeypatch.undo()
    states = sorted((tmp_path / "run" / "trainer").glob("checkpoint-*"))
    assert [state.name for state in states] == ["checkpoint-2", "checkpoint-4"]
    (states[-1] / "trainer_state.json").write_text("{")  # as if killed while it was written: the one before counts
    continued = advice.trained(options())
    one, other = load_file(whole / WEIGHTS), load_file(continued / WEIGHTS)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert of_run(continued, "update") == updates and of_run(continued, "curve") == of_run(whole, "curve")
    stamp = (continued / WEIGHTS).stat().st_mtime_ns
    assert (advice.trained(options()) / WEIGHTS).stat().st_mtime_ns == stamp, "finished, it is not trained again"
    with pytest.raises(UserError, match="another configuration"):
        advice.trained(options(lr=2e-2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth"])
def test_a_state_with_a_payload_ends_the_training_in_one_sentence_and_executes_nothing(options, monkeypatch, name):
    monkeypatch.setattr(Watch, "on_step_end", killed_at(3))
    with pytest.raises(KeyboardInterrupt):
        advice.trained(options())
    monkeypatch.undo()
    state, marker = options().output.out / "trainer" / "checkpoint-2", options().output.out / "executed"
    (state.parent / "checkpoint-of-mine").mkdir()
    whole = (state / name).read_bytes()
    pickled(marker, state / name)
    with pytest.raises(UserError, match=r"checkpoint-2: cannot be read"):
        advice.trained(options())
    assert not marker.exists()
    (state / name).write_bytes(whole)
    pickled(marker, state / "training_args.bin")
    assert (advice.trained(options()) / WEIGHTS).exists() and not marker.exists()


def killed_at(update):
    """Watch.on_step_end that is interrupted in this update."""
    usual = Watch.on_step_end

    def on_step_end(self, args, state, control, **rest):
        if state.global_step == update:
            raise KeyboardInterrupt
        usual(self, args, state, control, **rest)

    return on_step_end


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_the_run_and_names_the_question(options, tmp_path, monkeypatch):
    lost = split(loaded_triplets(options().triplets), options().recipe.held_out, 0)[0][0].question.id
    usual, made = AdviceObjective.terms, AdviceObjective.inputs

    def named(self, batch):
        return made(self, batch) | {"ids": [example.question.id for example in batch.examples]}

    def broken(self, model, inputs):
        terms = usual(self, model, inputs)
        if len(of_run(tmp_path / "run", "update")) >= 3:
            at = torch.tensor([one == lost for one in inputs["ids"]])
            terms["total"] = torch.where(at, math.nan, terms["total"])
        return terms

    monkeypatch.setattr(AdviceObjective, "inputs", named)
    monkeypatch.setattr(AdviceObjective, "terms", broken)
    said = rf"update \d: the loss is not a finite number, at {lost}; the state of update [24] is kept in .*-[24];"
    with pytest.raises(UserError, match=said):
        advice.trained(options())
    assert list((tmp_path / "run" / "trainer").glob("checkpoint-*/adapter_model.safetensors"))


@pytest.mark.slow
def test_where_memory_runs_out_a_mini_batch_is_trained_in_parts_to_the_same_losses(
    options, tmp_path, monkeypatch, capsys
):
    whole = of_run(advice.trained(options(out=tmp_path / "whole", dropout=0.0)), "update")
    usual, room = AdviceObjective.terms, 3 * 2

    def limited(self, model, inputs):
        if inputs["row"].transcripts > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return usual(self, model, inputs)

    monkeypatch.setattr(AdviceObjective, "terms", limited)
    in_parts = of_run(advice.trained(options(dropout=0.0)), "update")
    assert "each mini-batch in 2 parts from here on" in capsys.readouterr().err
    assert len(in_parts) == len(whole) > 3 and len({len(one) for one in whole}) == 1
    for one, other in zip(in_parts, whole, strict=True):
        assert one == pytest.approx(other, abs=1e-3), "Adam makes the last bits of a gradient larger"
    assert in_parts[0] == pytest.approx(whole[0], abs=1e-5)


@pytest.mark.slow
def test_a_gpu_by_its_number_is_refused_since_trainer_takes_the_first(options):
    with pytest.raises(UserError, match="Trainer takes the first GPU; choose it by CUDA_VISIBLE_DEVICES"):
        advice.trained(options(device="cuda:1"))


@pytest.mark.slow
def test_one_example_that_does_not_fit_is_one_sentence(options, monkeypatch):
    def never(self, model, inputs):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")

    monkeypatch.setattr(AdviceObjective, "terms", never)
    with pytest.raises(UserError, match=r"update 1: memory ran out, at .*; nothing is kept; take a smaller --batch"):
        advice.trained(options())


@pytest.mark.slow
def test_a_gradient_that_is_no_number_never_reaches_the_weights(options, monkeypatch):
    usual = AdviceObjective.terms

    def broken(self, model, inputs):
        terms = usual(self, model, inputs)
        return terms | {"total": terms["total"] + (terms["total"] - terms["total"]).sqrt()}  # 0, of infinite slope

    monkeypatch.setattr(AdviceObjective, "terms", broken)
    with pytest.raises(UserError, match=r"update 1: a gradient is not a finite number, at .*; nothing is kept"):
        advice.trained(options())


@pytest.mark.slow
def test_a_full_disk_ends_training_with_one_sentence(options, monkeypatch):
    def full(*_args, **_kwargs):
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="could not be written"):
        advice.trained(options())


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_very_end_leaves_a_state_to_go_on_from(options, monkeypatch):
    whole = advice.trained(options(out=options().output.out.with_name("whole")))
    usual = adapters.save_file

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(adapters, "save_file", full)
    with pytest.raises(UserError, match=r"could not be written .*No space left"):
        advice.trained(options())
    updates = of_run(options().output.out, "update")
    monkeypatch.setattr(adapters, "save_file", usual)
    monkeypatch.setattr(ObjectiveTrainer, "compute_loss", None)  # nothing is left to train
    continued = advice.trained(options())
    assert of_run(continued, "update") == updates
    one, other = load_file(whole / WEIGHTS), load_file(continued / WEIGHTS)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not (continued / "trainer").exists()


@pytest.mark.slow
def test_an_adapter_on_the_last_layers_changes_only_those(options):
    out = advice.trained(options(last_layers=1, updates=2))
    assert {name.partition("layers.")[2][0] for name in load_file(out / WEIGHTS)} == {"2"}
    model = loaded_checkpoint(str(out), Loading(device="cpu")).model
    assert any(".layers.2." in name and ".lora_" in name for name, _ in model.named_parameters())


@pytest.mark.slow
def test_only_plain_adapters_are_trained_on(options, tmp_path):
    first = advice.trained(options(out=tmp_path / "advice", updates=1))
    config = json.loads((first / "adapter_config.json").read_text())
    for odd in (
        {"use_rslora": True},
        {"bias": "all"},
        {"trainable_token_indices": [3]},
        {"init_lora_weights": "pissa"},
    ):
        (first / "adapter_config.json").write_text(json.dumps(config | odd))
        with pytest.raises(UserError, match=rf"its adapter has {next(iter(odd))}; only plain LoRA can be trained on"):
            conftuner.trained(options(conftuner.ConfTuner, ckpt=str(first), out=tmp_path / "both", diagnose=4))
        assert not (tmp_path / "both").exists(), "said before anything is measured"


@pytest.mark.slow
def test_conftuner_trains_on_graded_answers_and_on_top_of_an_adapter(options, tmp_path):
    first = advice.trained(options(out=tmp_path / "advice", lr=3e-2))
    both = conftuner.trained(options(conftuner.ConfTuner, ckpt=str(first), out=tmp_path / "both", lr=3e-2, epochs=3))
    curve = of_run(both, "curve")
    assert all({"right", "wrong", "tokenized_brier", "auroc", "ece"} < set(p) for p in curve[0]["formats"].values())
    ids = torch.tensor([[5, 6, 7, 8]])

    def said(ckpt):
        with torch.no_grad():
            return loaded_checkpoint(ckpt, Loading(device="cpu")).model(ids).logits

    base, one, two = said(options().ckpt), said(str(first)), said(str(both))
    assert (one - base).abs().max() > 1e-3 and (two - one).abs().max() > 1e-3
    with pytest.raises(UserError, match=r"already carries an adapter; train on its base .*llama"):
        advice.trained(options(ckpt=str(first), out=tmp_path / "no"))


@pytest.mark.slow
def test_conftuner_trains_on_the_percents_of_its_own_paper_from_the_same_file_of_answers(options, triplet_file):
    given = options(conftuner.ConfTuner, train_formats=("ScorePercent",), updates=1, batch=2, accumulation=1, every=1)
    out = conftuner.trained(given)
    points = of_run(out, "curve")
    assert all(set(point["formats"]) == {"ScorePercent"} for point in points)
    assert 0 < points[-1]["formats"]["ScorePercent"]["tokenized_brier"]["value"] < 1
    read = loaded_answers(answers_beside(triplet_file))
    assert len(in_formats(read, ("ScorePercent",), "")) == len(read) / 2, "the file holds each answer twice"
    assert set(in_formats(read, FORMATS_TRAINED, "")) == set(read)
    assert "--train-formats ScorePercent" in (out / "README.md").read_text()
    for wrong in (("ScorePerMille",), ("ScorePercent", "ScorePercent")):
        with pytest.raises(UserError, match="--train-formats"):
            options(conftuner.ConfTuner, train_formats=wrong)


def on_top(base: str, first: Path, dtype: str, recipe):
    """The base with the adapter of `first` frozen below a fresh one, whose weights are random."""
    checkpoint = loaded_checkpoint(str(first), Loading("cpu", dtype))
    model = with_adapter(checkpoint, recipe, 1)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn_like(parameter)
    return model


def first_adapter(base: str, folder: Path, **config) -> Path:
    torch.manual_seed(0)
    config = LoraConfig(init_lora_weights=False, task_type="CAUSAL_LM", **config)
    saved_adapter(get_peft_model(loaded_checkpoint(base, Loading(device="cpu")).model, config), folder, base)
    return folder


SMALL_RECIPE = replace(CONFTUNER_RECIPES["paper"], rank=2, alpha=7, dropout=0.5)
OTHERS = [
    {"targets": ("q_proj", "v_proj")},
    {"targets": ("q_proj", "v_proj"), "last_layers": 1},
    {"targets": ("k_proj", "o_proj", "down_proj"), "last_layers": 2},
]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("others", OTHERS, ids=["the same places", "fewer layers", "other projections"])
def test_what_is_saved_is_the_model_that_was_trained_within_the_rounding_of_float16(
    tiny_checkpoint, tmp_path, dtype, others
):
    base = str(tiny_checkpoint("llama"))
    first = first_adapter(base, tmp_path / "first", r=3, lora_alpha=6, target_modules=["q_proj", "v_proj"])
    trained = on_top(base, first, dtype, replace(SMALL_RECIPE, **others)).eval()
    saved_adapter(trained, tmp_path / "both", base, first)
    saved = loaded_checkpoint(str(tmp_path / "both"), Loading("cpu", dtype)).model
    layers = {name: layer for name, layer in trained.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    there = {name: layer for name, layer in saved.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
    assert set(layers) == set(there)
    for name, layer in layers.items():
        deltas = [layer.get_delta_weight(adapter).float() for adapter in layer.lora_A]
        both, loaded = sum(deltas), there[name].get_delta_weight("default").float()
        assert (loaded - both).norm() < 1e-3 * both.norm()
        assert len(deltas) == 1 or (deltas[0] - both).norm() > 0.1 * both.norm()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    with torch.no_grad():
        gap = (trained(ids).logits - saved(ids).logits).float().abs()
        base_gap = (
            (trained(ids).logits - loaded_checkpoint(base, Loading("cpu", dtype)).model(ids).logits).float().abs()
        )
    assert gap.mean() < (1e-3 if dtype == "float32" else 0.02) * base_gap.mean()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_only_the_second_adapter_has_gradients_and_the_first_keeps_its_bytes(tiny_checkpoint, tmp_path, dtype):
    base = str(tiny_checkpoint("llama"))
    first = first_adapter(base, tmp_path / "first", r=3, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    model = on_top(base, first, dtype, replace(SMALL_RECIPE, dropout=0.0)).train()
    assert model.active_adapters == ["default", "second"]
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10]])
    said = [model(ids).logits for _ in range(2)]
    assert torch.equal(*said), "the first adapter's dropout is off: it is a part of the base"
    said[0].float().logsumexp(-1).sum().backward()
    optimizer.step()
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    with_gradients = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert changed == with_gradients == {name for name in before if ".second." in name} and changed
    with torch.no_grad():
        alone = loaded_checkpoint(str(first), Loading("cpu", dtype)).model(ids).logits
        model.base_model.set_adapter(["default"])
        assert torch.equal(model.eval()(ids).logits, alone)


@pytest.mark.slow
def test_a_first_adapter_goes_through_a_training_that_was_stopped_as_it_was(options, tmp_path, monkeypatch):
    first = advice.trained(options(out=tmp_path / "advice", lr=3e-2, updates=2))
    bytes_before = (first / WEIGHTS).read_bytes()
    shared = {"ckpt": str(first), "lr": 3e-2, "updates": 4, "every": 2}
    whole = conftuner.trained(options(conftuner.ConfTuner, out=tmp_path / "whole", **shared))
    honest = ObjectiveTrainer.training_step

    def stopped(self, *args, **more):
        if self.state.global_step == 3:
            raise KeyboardInterrupt
        return honest(self, *args, **more)

    monkeypatch.setattr(ObjectiveTrainer, "training_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        conftuner.trained(options(conftuner.ConfTuner, out=tmp_path / "continued", **shared))
    assert list((tmp_path / "continued" / "trainer").glob("checkpoint-2/adapter_model.safetensors"))
    monkeypatch.setattr(ObjectiveTrainer, "training_step", honest)
    continued = conftuner.trained(options(conftuner.ConfTuner, out=tmp_path / "continued", **shared))
    one, other = load_file(whole / WEIGHTS), load_file(continued / WEIGHTS)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert (first / WEIGHTS).read_bytes() == bytes_before
    theirs = load_file(first / WEIGHTS)
    for name, weight in theirs.items():
        if ".lora_A." in name:
            assert torch.equal(one[name][: len(weight)], weight), "the first adapter's share of what is saved"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Advice, {"triplets": Path("t.jsonl")}),
        (conftuner.ConfTuner, {"answers": Path("t.jsonl")}),
        (Ablation, {"triplets": Path("t.jsonl")}),
        (Triplets, {}),
    ],
)
def test_training_refuses_a_second_wording_in_one_sentence(kind, given):
    with pytest.raises(UserError, match=r"^--wordings 2: .* one wording of the instruction$"):
        composed(kind, **given, wordings=2)
    assert composed(kind, **given, wordings=1).prompt.wordings == 1


@pytest.mark.slow
def test_another_models_triplets_are_trained_on_with_a_warning_that_names_it(options, triplet_file, capsys):
    lines = [json.loads(line) | {"model": "other-model 0123456789ab"} for line in triplet_file.read_text().splitlines()]
    triplet_file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    advice.trained(options(updates=1))
    assert "answers of other-model 0123456789ab, not of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"targets": ("qq",)}, r"--targets qq: .* has the projections down_proj, gate_proj, k_proj"),
        ({"lr": 0.0}, "--lr 0.0: must be more than 0"),
        ({"dropout": 1.0}, r"--dropout 1.0: must lie in \[0, 1\)"),
        ({"held_out": 12}, "--held-out 12: there are only 12 questions"),
        ({"jsd": -1.0}, "the weight of the term jsd is -1.0"),
        (
            {"report_to": ("none", "carrier-pigeon")},
            "--report-to carrier-pigeon: not installed here",
        ),
        ({"template_args": ("x",)}, "--template-args x: write name=value"),
    ],
)
def test_what_training_cannot_do_is_said_in_one_sentence(options, changes, said):
    with pytest.raises(UserError, match=said):
        advice.trained(options(**changes))


def test_a_file_of_one_format_is_refused_with_the_other_named(options, triplet_file):
    lines = [line for line in triplet_file.read_text().splitlines(True) if "ScoreLetter" in line]
    triplet_file.write_text("".join(lines))
    with pytest.raises(UserError, match="none is in ScoreNumber; training takes both formats"):
        advice.trained(options())
    file = answers_beside(triplet_file)
    file.write_text("".join(line for line in file.read_text().splitlines(True) if "ScoreNumber" in line))
    with pytest.raises(UserError, match="none is in ScoreLetter; training takes both formats"):
        conftuner.trained(options(conftuner.ConfTuner))


@pytest.mark.slow
def test_changed_answers_to_the_same_questions_are_another_training(options, triplet_file):
    advice.trained(options(updates=1))
    triplet_file.write_text(triplet_file.read_text().replace("something else", "something new"))
    with pytest.raises(UserError, match=r"another configuration .*examples"):
        advice.trained(options(updates=1))


def test_a_preset_fits_the_model_and_what_is_given_comes_before_it(options):
    assert preset_for(options(), "llama", 10**8) == "small" and preset_for(options(), "llama", 8 * 10**9) == "paper"
    assert preset_for(options(), "mistral", 7 * 10**9) == "mistral"
    assert preset_for(options(preset="paper"), "mistral", 10) == "paper"
    paper = ADVICE_RECIPES["paper"]
    assert (paper.lr, paper.epochs, paper.batch, paper.accumulation, paper.rank, paper.alpha) == (
        1e-5,
        4,
        16,
        2,
        16,
        32,
    )
    assert paper.targets == ("q_proj", "k_proj", "v_proj", "o_proj") and ADVICE_RECIPES["mistral"].lr == 3e-5
    assert (paper.lm, paper.jsd, paper.margin, paper.sum, paper.jsd_wanted, paper.margin_wanted) == (1, 1, 1, 1, 0.6, 1)
    tuner = CONFTUNER_RECIPES["paper"]
    assert (tuner.lr, tuner.epochs, tuner.rank, tuner.alpha, tuner.dropout) == (1e-5, 2, 8, 32, 0.05)
    assert tuner.targets == ("q_proj", "v_proj")
    changed = filled_in(paper, options(lr=5e-4, margin=2.0))
    assert (changed.lr, changed.margin, changed.sum, changed.rank) == (5e-4, 2.0, 1.0, 16)


@pytest.mark.slow
def test_the_ablation_trains_seven_rows_and_sets_them_beside_the_base(options, own_data, tmp_path, capsys):
    grid = ablated(options(Ablation, updates=2, lm=0.1, data=(str(own_data / "open.jsonl"),), n=12))
    reported(grid)
    assert "lm_jsd_margin" in capsys.readouterr().out
    header, *rows = (grid / "ablation.csv").read_text().splitlines()
    assert header.startswith("row,data,format,accuracy") and len(rows) == 8 * 2
    assert (grid / "figures" / "ablation.png").exists()
    for name, off in ROWS.items():
        terms = of_run(grid / name, "update")
        assert len(terms) == 2 and all(one[term] == 0 for one in terms for term in off)
        assert all(any(one[term] for one in terms) for term in {"lm", "jsd", "margin", "sum"} - set(off))
        assert f"--{off[0]} 0.0" in (grid / name / "README.md").read_text() if off else True


@pytest.mark.slow
def test_a_training_diagnoses_before_and_after_by_itself(options, taught_checkpoint, own_data):
    """The numbers of both stand in the card."""
    ckpt, data = str(taught_checkpoint), str(own_data / "open.jsonl")
    out = advice.trained(options(ckpt=ckpt, diagnose=3, diagnose_data=data, updates=2))
    card = (out / "README.md").read_text()
    assert "## Before and after" in card and "sampled (the paper's): higher after the right answer |" in card
    assert "| AUROC, open, ScoreNumber |" in card
    assert {"learning_curve.png", "learning_curve.txt"} <= {path.name for path in (out / "figures").iterdir()}
    assert (out / "compare" / "figures" / "compare_jsd.png").exists()


def test_mini_batches_hold_one_format_and_every_triplet_once_an_epoch(options):
    triplets = loaded_triplets(options().triplets)
    recipe = replace(ADVICE_RECIPES["paper"], epochs=3, batch=5)
    batches = mini_batches(triplets, recipe, options(shot_sets=4))
    assert all(len({t.format for t in batch.examples}) == 1 and len(batch.examples) <= 5 for batch in batches)
    seen = [(t.question.id, t.format) for batch in batches for t in batch.examples]
    assert sorted(seen) == sorted([(t.question.id, t.format) for t in triplets] * 3)
    assert {batch.shot_seed for batch in batches} <= set(range(4))
    assert batches == mini_batches(triplets, recipe, options(shot_sets=4))
    assert batches != mini_batches(triplets, recipe, options(shot_sets=4, seed=1))
    short = mini_batches(triplets, replace(recipe, updates=2, accumulation=3), options(shot_sets=4))
    assert [replace(b, progress=0.0) for b in short] == [replace(b, progress=0.0) for b in batches[:6]]
    two = mini_batches(triplets, replace(recipe, updates=2, accumulation=3), options(shot_sets=4), processes=2)
    assert len(two) == 12, "two processes take turns, so that an update takes twice as many"
    assert [batch.examples for batch in two] == [batch.examples for batch in batches[:12]]
    orders = [[t.question.id for b in batches if b.epoch == epoch for t in b.examples] for epoch in range(3)]
    assert orders[0] != orders[1] != orders[2] != orders[0], "every epoch has an order of its own"


def test_the_first_of_two_is_ahead_where_it_is_better_and_counted_by_measure():
    def numbers(ece, auroc):
        sure = {"low": None, "high": None, "n": 9, "left_out": 0}
        return {
            name: {"value": value, **sure} for name, value in (("ece", ece), ("nce_abs", ece), ("auroc", auroc))
        } | {"brier": {"value": None, **sure}}

    def summary(*sides):
        named = zip(("ours", "theirs"), sides, strict=True)
        table = {name: {"default": {"ScoreText": numbers(*side)}} for name, side in named}
        return {"calibration": {name: {"facts": cell, f"facts{SHARED}": cell} for name, cell in table.items()}}

    grid = settings_grid([summary((0.1, 0.6), (0.2, 0.7)), summary((0.9, 0.9), (0.1, 0.1))], ("ours", "theirs"))
    assert len(grid.rows) == 4, "a setting that was measured twice counts once, as first; parts count not at all"
    assert ahead(grid) == {"ECE": (1, 1), "abs NCE": (1, 1), "AUROC": (0, 1)}


def test_the_experiment_says_at_once_which_file_is_missing(own_data, tmp_path):
    with pytest.raises(UserError, match=r"there is no triviaqa_train.jsonl in it"):
        Experiment(data=own_data)
    for name in FILES:
        (tmp_path / name).write_text("")
    given = {"data": tmp_path, "out": tmp_path / "runs"}
    planned = list(steps(Experiment(**given)))
    names = [step.name for step in planned]
    trainings = [f"{name}-{seed}" for name in ("advice", "without-margin", "conftuner") for seed in range(3)]
    assert names[:11] == ["triplets", *trainings, "advice-conftuner"] and names[-1] == "outcomes"
    assert len(set(names)) == len(names)
    for number, step in enumerate(planned):
        assert set(step.needs) <= set(names[:number]), "each comes after those that it needs"
    assert set(names) == {need for step in planned for need in step.needs} | {"compare", "settings", "outcomes"}
    with pytest.raises(UserError, match=r"--only advise-0: the steps are triplets, advice-0, "):
        experiment(Experiment(**given, only="advise-0"))
    with pytest.raises(UserError, match=r"--triplets .*none.jsonl: there is no none.jsonl"):
        Experiment(**given, triplets=tmp_path / "none.jsonl")


def test_steps_with_triplets_that_are_there_need_none(triplet_file, tmp_path):
    for name in FILES:
        (tmp_path / name).write_text("")
    planned = {step.name: step for step in steps(Experiment(data=tmp_path, triplets=triplet_file))}
    assert "triplets" not in planned and planned["advice-0"].needs == ()


@pytest.mark.slow
def test_the_experiment_goes_from_questions_to_its_outcomes(taught_checkpoint, own_data, tmp_path, capsys):
    kinds = {"triviaqa_train": "open", "triviaqa_test": "open", "mmlu": "choices", "logiqa_test": "choices"}
    for name, kind in kinds.items():
        text = (own_data / f"{kind}.jsonl").read_text().replace('"id": "', '"id": "own-')  # some are facts' ids as well
        (tmp_path / f"{name}.jsonl").write_text(text)
    tested = (tmp_path / "triviaqa_test.jsonl").read_text().splitlines(True)[:4]
    (tmp_path / "triviaqa_test.jsonl").write_text("".join(tested))
    few = {"seeds": 2, "greedy_wrong": 2, "held_out": 2, "updates": 1, "n": 6, "n_breadth": 4, "diagnose": 8}
    out, final = tmp_path / "runs", str(tmp_path / "triviaqa_test.jsonl")
    asked = Experiment(data=tmp_path, ckpt=str(taught_checkpoint), final=final, out=out, device="cpu", **few)
    experiment(asked)
    said = capsys.readouterr().out
    told = [line.partition(",")[0] for line in said.splitlines() if line.startswith("step: ")]
    assert told == [f"step: {step.name}" for step in steps(asked)]
    assert "advice-0 does better than conftuner-0 by ECE in" in said and (out / "settings.csv").exists()
    assert "advice: primary: AUROC within relation, change from the base" in said
    card = (out / "advice-0" / "README.md").read_text()
    assert "## Before and after" in card and "| JSD at most 0.1, share: questions, wrong answer branched |" in card
    by_data = read_run(out / "triviaqa")[1]["calibration"]["advice-0"]
    assert "triviaqa_test (answers in training)" in by_data, "all of them are, here"
    counts = read_run(out / "triplets.jsonl.run")[1]["triplets"]
    assert counts["left_out_as_tested"] == len(tested) == 4 and counts["asked"] == 652 + 12 - 4
    assert counts["sampled_for_a_right_answer"] <= 4
    terms = of_run(out / "without-margin-1", "update")
    assert all(one["margin"] == 0 for one in terms) and terms
    # side by side, in real processes: what is finished is left alone
    records = (out / "dependence-base" / "records.jsonl").read_bytes()
    finished = [step for step in steps(asked) if step.name in ("triplets", "dependence-base")]
    run_side_by_side(finished, replace(asked, workers=2))
    assert (out / "dependence-base" / "records.jsonl").read_bytes() == records
    assert {path.name for path in (out / "logs").iterdir()} == {"triplets.log", "dependence-base.log"}
    table = (out / "outcomes.md").read_text().splitlines()
    assert len(table) == 2 + 2 * 18 + 5 and table[0].startswith("| training | outcome |")
    measured = read_run(out / "final")[1]
    base = next(iter(measured["calibration"]))
    sides = ("advice, mean of seeds", "advice-0", "advice-1")
    pooled, *by_seed = (measured["differences"][f"{side} less {base}"] for side in sides)
    values = [one["triviaqa_test"]["default"]["ScoreNumber"]["brier"]["value"] for one in (pooled, *by_seed)]
    assert values[0] == pytest.approx((values[1] + values[2]) / 2)


def test_no_question_is_both_trained_on_and_held_out(options):
    triplets = loaded_triplets(options().triplets)
    train, held = split(triplets, 4, 0)
    assert len(train) == 16 and len(held) == 8
    assert not {t.question.id for t in train} & {t.question.id for t in held}


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


def test_without_vetting_both_answers_of_a_triplet_stay_as_the_model_wrote_them(open_questions):
    question = open_questions[0]
    answers = {question.id: {"answer": "Asunción.", "right": True}}
    samples = {question.id: {"distinct": ["lima", "Oslo"], "sources": ["sampled"] * 2, "wrong": ["lima", "Oslo"]}}
    for vetted, expected in ((False, ("Asunción.", "lima", ["Oslo"])), (True, ("Asunción", "Lima", ["Oslo"]))):
        rows = list(_triplets([question], answers, samples, 4, vetted=vetted))
        assert [(row["right"], row["wrong"], row["others"]) for row in rows] == [expected] * 2
    for vetted, expected in ((False, ("lima", "Asunción.")), (True, ("lima", "asunción"))):
        said = {question.id: {"answer": "Asunción."}}, {question.id: {"distinct": ["lima"]}}
        asked = replace(question, answers=("Lima",))
        rows = list(_greedy_wrong([asked], *said, vetted=vetted))
        assert [(row["right"], row["wrong"]) for row in rows] == [expected] * 2


@pytest.mark.slow
def test_triplets_are_the_models_own_right_and_wrong_answers(taught_checkpoint, own_data, tmp_path, open_questions):
    options = composed(
        Triplets,
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
    answers = loaded_answers(answers_beside(tmp_path / "t.jsonl"))
    assert {(a.question.id, a.right) for a in answers if a.right} >= {(t.question.id, True) for t in triplets}
    assert all(is_right(by_id[a.question.id], a.answer) == a.right for a in answers)
    assert {one.model for one in (*triplets, *answers)} == {answers[0].model} and answers[0].model
    before = (tmp_path / "t.jsonl").read_text()
    assert built(options).read_text() == before, "repeated, it writes the same"
    records = tmp_path / "t.jsonl.run" / "records.jsonl"
    lines = records.read_text().splitlines(True)
    for kept in (0, 5, 13, len(lines) - 1):  # killed at any moment: within a line, before or after the first sample
        records.write_text("".join(lines[:kept]) + lines[kept][:20])
        (tmp_path / "t.jsonl").unlink()
        assert built(options).read_text() == before


@pytest.mark.slow
def test_branches_follow_the_sampled_wrong_answers_of_a_triplet_and_are_named(taught_checkpoint, own_data, tmp_path):
    def rows(**more) -> dict[str, dict]:
        where = {"ckpt": str(taught_checkpoint), "data": (str(own_data / "open.jsonl"),), "shots": 0, "device": "cpu"}
        path = built(composed(Triplets, **where, **more, top_p=0.95, tries=3, n_wrong=3))
        assert loaded_triplets(path)
        return {row["id"]: row for row in map(json.loads, path.read_text().splitlines())}

    sampled = rows(out=tmp_path / "sampled.jsonl")
    branched = rows(out=tmp_path / "branched.jsonl", wrong_from="branched")
    assert len(branched) > len(sampled), "positive control: some questions have no wrong sample"
    for row in branched.values():
        count = row["sources"].count("branched")
        assert (
            3 == len(row["sources"]) == 1 + len(row["others"]) and row["sources"][3 - count :] == ["branched"] * count
        )
    for key, row in sampled.items():
        assert set(row["sources"]) == {"sampled"}
        both = [row["wrong"], *row["others"]]
        assert [branched[key]["wrong"], *branched[key]["others"]][: len(both)] == both
    counts = read_run(tmp_path / "branched.jsonl.run")[1]["triplets"]
    assert counts["without_wrong_answer"] == 0
    assert counts["first_wrong_answer_branched"] == sum(row["sources"][0] == "branched" for row in branched.values())


@pytest.mark.slow
def test_what_is_tested_on_is_not_trained_on(taught_checkpoint, own_data, tmp_path, open_questions):
    tested = tmp_path / "tested.jsonl"
    reworded = {"id": "other-id", "question": f"  {open_questions[0].text.upper()} ", "answers": ["x"]}
    tested.write_text(json.dumps(reworded) + "\n")
    where = {"ckpt": str(taught_checkpoint), "data": (str(own_data / "open.jsonl"),), "shots": 0, "device": "cpu"}
    built(composed(Triplets, **where, apart_from=(str(tested),), out=tmp_path / "t.jsonl"))
    counts = read_run(tmp_path / "t.jsonl.run")[1]["triplets"]
    assert (counts["left_out_as_tested"], counts["asked"]) == (1, 11)
    assert open_questions[0].id not in {a.question.id for a in loaded_answers(answers_beside(tmp_path / "t.jsonl"))}
    with pytest.raises(UserError, match=r"--apart-from .*open.jsonl: all questions of --data stand there as well"):
        built(composed(Triplets, **where, apart_from=where["data"], out=tmp_path / "none.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Advice, conftuner.ConfTuner])
def test_the_command_on_the_card_gives_the_same_recipe_again(options, kind):
    contrast = {"lm_mean": True, "equal_length": True, "greedy_wrong_share": 0.25, "invariance": 0.5}
    more = contrast if kind is Advice else {"balanced": True, "likelihood": 0.2, "kl": 0.1}
    given = options(kind, updates=1, lr=3e-3, last_layers=2, targets=("q_proj", "down_proj"), **more)
    out = (advice if kind is Advice else conftuner).trained(given)
    command = next(line for line in (out / "README.md").read_text().splitlines() if line.startswith("`python -m"))
    again = tyro.cli(kind, args=command.strip("`").split()[3:], config=(tyro.conf.OmitArgPrefixes,))
    config = read_run(out)[0]["identity"]
    recipes = ADVICE_RECIPES if kind is Advice else CONFTUNER_RECIPES
    recipe = asdict(filled_in(recipes[config["preset"]], again))
    assert json.loads(json.dumps(recipe)) == config["recipe"] and recipe["targets"] == ("q_proj", "down_proj")
    for name in ("ckpt", "held_out", "every", "shots", "template", "shot_sets", "seed"):
        assert flat(again)[name] == config[name]


def test_a_file_that_holds_no_triplets_is_refused_with_the_line(triplet_file, tmp_path):
    lines = triplet_file.read_text().split("\n")
    first = json.loads(lines[0])
    odd = [first | {"others": "abc"}, first | {"others": [""]}, first | {"answers": "abc"}, first | {"right": 1}]
    for broken in ('{"id": "x"}', "not json", lines[0].replace("ScoreLetter", "ScoreWord"), *map(json.dumps, odd)):
        (tmp_path / "bad.jsonl").write_text("\n".join([lines[0], broken]))
        with pytest.raises(UserError, match=r"bad\.jsonl, line 2: not one of the triplets"):
            loaded_triplets(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("\n")
    with pytest.raises(UserError, match="no triplets in it"):
        loaded_triplets(tmp_path / "bad.jsonl")


@pytest.mark.slow
def test_half_precision_trains_an_adapter_whose_own_weights_are_whole(options):
    out = advice.trained(options(dtype="bfloat16", updates=2))
    terms = of_run(out, "update")
    assert len(terms) == 2 and terms[0]["total"] == pytest.approx(
        of_run(advice.trained(options(out=out.with_name("whole"), updates=2)), "update")[0]["total"], rel=0.05
    )
    assert read_run(out)[0]["identity"]["dtype"] == "bfloat16"
