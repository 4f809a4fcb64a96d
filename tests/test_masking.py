"""Answer masking: exactly the answer is hidden, by replacements and knockouts, and the drop is what is then said."""

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import written_levels

from interp.errors import UserError
from interp.instruments.base import estimates
from interp.instruments.masking import (
    KNOCKOUTS,
    METRICS,
    measured,
    neutral_token,
    padding_token,
    replacement_embeddings,
    variants,
)
from interp.models.checkpoints import Checkpoint
from interp.models.hooks import HookedModel
from interp.models.setting import Case, Setting, named_token
from interp.options import composed
from interp.pipelines.diagnose import diagnosed
from interp.pipelines.diagnosis import Diagnose

KINDS = [("llama", False), ("mistral", False), ("gemma2", False), ("qwen2", False), ("gemma3", False), ("llama", True)]


def with_levels(setting: Setting, transcript) -> list[list[torch.Tensor]]:
    """For each level the token ids of the whole texts that end with it, [1, tokens]."""
    return [
        [torch.tensor([[*transcript.ids, *suffix]]) for suffix in ways] for ways in written_levels(setting, transcript)
    ]


def said_after(setting: Setting, transcript, forward) -> torch.Tensor:
    """The definition: level probabilities from one pass over each whole text, renormalised; forward: ids -> logits."""
    before, stops, found = len(transcript.ids), list(setting.stops), []
    for ways in with_levels(setting, transcript):
        stated = []
        for ids in ways:
            said = forward(ids)[0].double().log_softmax(-1)
            written = sum(said[i - 1, ids[0, i]] for i in range(before, ids.shape[1]))
            stated.append(written + said[-1, stops].logsumexp(-1))
        found.append(torch.stack(stated).logsumexp(0))
    return torch.stack(found).softmax(-1)


def with_replacement(setting: Setting, transcript, replacement: torch.Tensor):
    """A plain forward pass in which the answer's embeddings were replaced by hand."""

    @torch.no_grad()
    def forward(ids):
        embeds = setting.checkpoint.model.get_input_embeddings()(ids).clone()
        for position in transcript.positions("answer"):
            embeds[0, position] = replacement
        return setting.checkpoint.model(inputs_embeds=embeds, use_cache=False).logits

    return forward


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_a_filler_stands_for_exactly_the_answers_tokens(tiny_setting, open_questions, family, adapter):
    setting = tiny_setting(family, adapter)
    cases = [Case(open_questions[0], "Kitten"), Case(open_questions[7], "Asunción")]
    for case, record in zip(cases, measured(setting, cases), strict=True):
        transcript = setting.prompter.transcript(case.question, case.answer)
        assert len(transcript.positions("answer")) > 1
        with torch.no_grad():
            seen = said_after(setting, transcript, lambda ids: setting.checkpoint.model(ids, use_cache=False).logits)
        assert record["seen"]["probability"] == pytest.approx(seen.tolist(), abs=1e-4)
        replacements = replacement_embeddings(setting)
        assert list(replacements) == ["neutral", "mean", "pad"]
        for name, replacement in replacements.items():
            expected = said_after(setting, transcript, with_replacement(setting, transcript, replacement))
            assert record["masked"][name]["probability"] == pytest.approx(expected.tolist(), abs=1e-4)
            assert (expected - seen).abs().max() > 0.005, "the answer matters to this model"


def test_tokens_of_the_question_are_left_untouched(tiny_setting, open_questions):
    setting = tiny_setting("gemma3")
    transcript = setting.prompter.transcript(open_questions[0], "Asunción")
    length, replacement = len(setting.prefix.shared_prefix), torch.full((48,), 0.25)
    made = variants(setting, transcript, length, replacements=["flat"])
    embeds, own = made.embeds(setting, {"flat": replacement}), setting.prefix.embedded(made.tree.tokens)
    assert len(made.hidden["flat"]) == len(transcript.positions("answer"))
    for node in range(len(made.tree.tokens)):
        assert torch.equal(embeds[node], replacement if node in made.hidden["flat"] else own[node])


def test_what_variants_have_in_common_stands_once(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    length = len(setting.prefix.shared_prefix)
    made = variants(setting, transcript, length, replacements=["neutral", "mean"], knockouts=KNOCKOUTS)
    answer, rest = transcript.positions("answer"), len(transcript.ids) - length
    levels = len(setting.reader.plan(transcript, length)[0].tokens) - rest
    after = len(transcript.ids) - answer[-1] - 1
    apart = [rest, after + len(answer), after + len(answer), 1, after]  # as it is, two replacements, two cuts
    assert len(made.tree.tokens) == sum(apart) + len(apart) * levels
    assert list(made.plans) == ["seen", "neutral", "mean", *KNOCKOUTS]
    alone = variants(setting, transcript, length, replacements=["neutral"], seen=False)
    assert list(alone.plans) == ["neutral"] and len(alone.tree.tokens) == rest + levels


def test_the_questions_of_a_chunk_are_read_in_one_pass(tiny_setting, open_questions, monkeypatch):
    setting = tiny_setting("llama")
    cases = [Case(question, question.answers[0]) for question in open_questions[:8]]
    monkeypatch.setattr(setting.prefix, "batch_tokens", 8192)  # this tokenizer makes many tokens of few words
    passes: list[int] = []
    body = setting.checkpoint.model.model
    hook = body.register_forward_hook(lambda module, args, out: passes.append(out[0].shape[:2].numel()))
    try:
        measured(setting, cases)
        assert len(passes) == 1, "it was two for each question"
        (together,) = passes
        for case in cases:
            measured(setting, [case])
    finally:
        hook.remove()
    assert together < 1.1 * sum(passes[1:]), "and few tokens of padding"


@pytest.mark.slow
@pytest.mark.parametrize(("family", "adapter"), KINDS)
def test_a_cut_equals_transformer_lens_knockout(tiny_setting, open_questions, family, adapter):
    setting, case = tiny_setting(family, adapter), Case(open_questions[0], "Kitten")
    (record,) = measured(setting, [case])
    transcript = setting.prompter.transcript(case.question, case.answer)
    hooked, answer = HookedModel(setting.checkpoint.model), transcript.positions("answer")
    for name, first in zip(KNOCKOUTS, (len(transcript.ids) - 1, answer[-1] + 1), strict=True):

        def cut(ids, first=first):
            with hooked.attention_knocked_out(list(range(first, ids.shape[1])), answer):
                return hooked.logits(ids)

        expected = said_after(setting, transcript, cut)
        assert record["masked"][name]["probability"] == pytest.approx(expected.tolist(), abs=2e-3)
    direct, later = (record["masked"][name]["expected"] for name in KNOCKOUTS)
    assert direct != pytest.approx(record["seen"]["expected"], abs=1e-3), "the cut does something"
    assert direct != pytest.approx(later, abs=5e-5), "what stands between passes the answer on"


def test_the_direct_cut_blinds_the_rows_that_are_read_and_the_other_one_all_that_follow(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    transcript = setting.prompter.transcript(open_questions[0], "Kitten")
    length = len(setting.prefix.shared_prefix)
    made = variants(setting, transcript, length, replacements=["neutral"], knockouts=KNOCKOUTS)
    sight, tree = made.tree.sight(), made.tree
    assert len(tree.knockouts) == 2
    path = tree.insert(transcript.ids[length:])
    answer = [path[i - length] for i in transcript.positions("answer")]
    levels = len(setting.reader.plan(transcript, length)[0].tokens) - len(path)
    for name, (looking, looked_at) in zip(KNOCKOUTS, tree.knockouts, strict=True):
        blind = 1 + levels if name == KNOCKOUTS[0] else len(path) - path.index(answer[-1]) - 1 + levels
        assert len(looking) == blind and list(looked_at) == answer
        for node in looking:
            above, seen = node, set()
            while above >= 0:
                seen.add(above)
                above = tree.parents[above]
            assert set(sight[node].nonzero()[0]) == seen - set(answer) and seen > set(answer)
    others = set(range(len(sight))) - {node for looking, _ in tree.knockouts for node in looking}
    tree.knockouts.clear()
    whole = tree.sight()
    assert all((sight[node] == whole[node]).all() for node in others), "all others see what they saw"


def test_a_cue_in_the_answers_length_is_seen_by_divergence_and_not_by_hiding_its_tokens(taught_setting, open_questions):
    cases = [Case(open_questions[0], answer) for answer in ("Kitten", "Mitten", "Paris")]
    right, same_length, other_length = measured(taught_setting, cases)
    assert same_length["seen"]["expected"] == pytest.approx(right["seen"]["expected"], abs=0.05)
    assert other_length["seen"]["expected"] < right["seen"]["expected"] - 0.3
    for record in (right, other_length):
        for name in record["masked"]:
            assert record["values"][f"{name}.drop"] == record["seen"]["expected"] - record["masked"][name]["expected"]
            assert abs(record["values"][f"{name}.drop"]) < 0.1, "replacements and cuts leave every token where it was"


def test_cases_together_equal_cases_alone(tiny_setting, open_questions):
    setting = tiny_setting("mistral")
    cases = [Case(open_questions[i], answer) for i, answer in ((0, "Kitten"), (7, "Asunción"), (8, "3"))]
    together = measured(setting, cases)
    for case, record in zip(cases, together, strict=True):
        assert record["values"] == pytest.approx(measured(setting, [case])[0]["values"], abs=1e-4)
    assert together[0]["values"] != pytest.approx(together[1]["values"], abs=1e-3)


# Replacements


def checkpoint_of(tokenizer, *, stops=(4,)) -> SimpleNamespace:
    return SimpleNamespace(tokenizer=tokenizer, stops=stops)


def test_pad_is_a_filler_only_where_it_means_nothing_else():
    def tokenizer(**ids):
        return SimpleNamespace(**({"pad": 0, "bos": 1, "eos": 2, "unk": 3} | ids))

    def asked(stops=(4,), **ids):
        given = {f"{k}_token_id": v for k, v in ({"pad": 0, "bos": 1, "eos": 2, "unk": 3} | ids).items()}
        return padding_token(SimpleNamespace(**given), stops)

    assert asked() == 0
    assert asked(pad=None) is None
    for same in ("bos", "eos", "unk"):
        assert asked(**{same: 0}) is None
    assert asked(stops=(4, 0)) is None, "pad ends a turn, as in the embedded model"


def test_a_pad_that_ends_the_turn_is_left_out_of_the_record(tiny_setting, open_questions, monkeypatch):
    setting, case = tiny_setting("llama"), Case(open_questions[0], "Kitten")
    assert "pad" in measured(setting, [case])[0]["masked"]
    monkeypatch.setattr(
        setting.checkpoint.model.generation_config, "eos_token_id", [setting.checkpoint.tokenizer.pad_token_id]
    )
    (record,) = measured(setting, [case])
    assert list(record["masked"]) == ["neutral", "mean", *KNOCKOUTS]


def test_a_named_filler_stands_in_where_the_tokenizer_has_no_pad(tiny_setting, open_questions):
    setting, case = tiny_setting("llama"), Case(open_questions[0], "Kitten")
    tokenizer = copy.deepcopy(setting.checkpoint.tokenizer)
    tokenizer.pad_token = None
    setting = replace(setting, checkpoint=replace(setting.checkpoint, tokenizer=tokenizer))
    assert "pad" not in measured(setting, [case])[0]["masked"], "none is named: as before"
    assert padding_token(tokenizer, setting.stops) is None
    token = named_token(setting.checkpoint, "x")
    assert tokenizer.convert_ids_to_tokens(token) == "x"
    filled = replace(setting, filler=token)
    (record,) = measured(filled, [case])
    transcript = setting.prompter.transcript(case.question, case.answer)
    embedding = setting.checkpoint.model.get_input_embeddings().weight[token].detach()
    expected = said_after(setting, transcript, with_replacement(setting, transcript, embedding))
    assert record["masked"]["pad"]["probability"] == pytest.approx(expected.tolist(), abs=1e-4)
    assert list(record["masked"]) == ["neutral", "mean", "pad", *KNOCKOUTS]


def test_a_filler_that_the_vocabulary_lacks_is_one_sentence_before_anything_is_measured(
    tiny_checkpoint, tiny_loaded, own_data, tmp_path, monkeypatch
):
    options = composed(
        Diagnose,
        ckpt=str(tiny_checkpoint("llama")),
        data=str(own_data / "open.jsonl"),
        filler="<|finetune_right_pad_id|>",
        device="cpu",
        out=tmp_path / "run",
    )
    with pytest.raises(
        UserError, match=r"^--filler <\|finetune_right_pad_id\|>: the vocabulary of \S+ has no such token$"
    ):
        diagnosed(options, ("masking",), "masking")
    assert not (tmp_path / "run").exists()
    checkpoint = tiny_loaded("llama")
    beyond = SimpleNamespace(get_vocab=lambda: {"<late>": checkpoint.model.config.vocab_size})
    with pytest.raises(UserError, match=r"--filler <late>: token [0-9]+ has no embedding"):
        named_token(Checkpoint("tiny", checkpoint.model, beyond), "<late>")


@pytest.mark.parametrize("vocabulary", ["digits", "spaced", "pieces"])
def test_the_neutral_filler_is_one_token_that_says_nothing(tiny_tokenizer, vocabulary):
    tokenizer = tiny_tokenizer(vocabulary)
    said = tokenizer.decode([neutral_token(checkpoint_of(tokenizer))])
    assert said.strip() in ("...", "_", ".") and len(said) <= 4
    known = {" ...": [7, 8], "...": [9], " _": [10], "_": [11], " .": [12], ".": [13]}
    made = checkpoint_of(lambda text, add_special_tokens: {"input_ids": known[text]})
    assert neutral_token(made) == 9, "the first of the texts that is one token"


@pytest.mark.parametrize("family", ["llama", "gemma2", "gemma3"])
def test_the_mean_embedding_is_the_mean_of_what_the_layers_receive(tiny_model, family):
    model = tiny_model(family)
    checkpoint = Checkpoint("tiny", model, None)
    ids = torch.arange(model.config.vocab_size)[None]
    received = []
    hook = model.model.layers[0].register_forward_pre_hook(lambda module, args: received.append(args[0]))
    try:
        with torch.no_grad():
            model(ids)
            model(inputs_embeds=checkpoint.mean_embedding.float().expand(1, 2, -1))
    finally:
        hook.remove()
    assert received[1][0, 0].tolist() == pytest.approx(received[0][0].mean(0).tolist(), abs=1e-5)
    weight = model.get_input_embeddings().weight.mean(0)
    scaled = family.startswith("gemma")  # those multiply by the square root of the width on the way in
    assert (received[1][0, 0] - weight).abs().max().item() == pytest.approx(0, abs=1e-5) or scaled
    assert weight.abs().max() > 0.01
    if scaled:
        assert received[1][0, 0].tolist() == pytest.approx((weight * 48**0.5).tolist(), rel=1e-2, abs=1e-4)


def test_the_summary_is_the_mean_over_questions():
    records = [{"values": {"seen": 0.5, "mean.drop": 0.1}}, {"values": {"seen": 0.7, "mean.drop": -0.3}}]
    found = estimates(METRICS, records)
    assert found["masking.seen"].value == pytest.approx(0.6)
    assert found["masking.mean.drop"].value == pytest.approx(-0.1)
