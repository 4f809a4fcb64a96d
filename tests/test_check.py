"""The check at the start finds an engine that reads otherwise than the model, and says how far it looked."""

import copy

import pytest
import torch
from conftest import FAMILIES

from interp.errors import UserError
from interp.formats import FORMATS
from interp.models import check, tree
from interp.models import prefix as engine
from interp.models import setting as settings
from interp.models.check import LEAST_HALF, EngineCheck
from interp.models.checkpoints import Checkpoint
from interp.models.setting import prepared
from interp.models.tree import TokenTree


@pytest.fixture
def checkpoint(tiny_model, tiny_tokenizer):
    """checkpoint(family, dtype): one that nothing has been seen of."""

    def made(family: str, dtype: torch.dtype = torch.float32) -> Checkpoint:
        return Checkpoint(f"tiny-{family}", copy.deepcopy(tiny_model(family)).to(dtype), tiny_tokenizer())

    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_read_as_its_own_pass_reads_it(checkpoint, family, dtype, monkeypatch):
    setting = prepared(checkpoint(family, dtype), FORMATS["ScoreNumber"], shots=2)
    found = setting.check
    assert 450 < found.tokens <= 520
    assert found.difference < (1e-5 if dtype == torch.float32 else LEAST_HALF)
    monkeypatch.setattr(settings, "engine_checked", None)
    assert prepared(setting.checkpoint, FORMATS["ScoreLetter"], check=found).check is found, "not made again"


@pytest.mark.parametrize("form", ["ScorePercent", "ScoreText"])
@pytest.mark.parametrize("vocabulary", ["digits", "spaced", "pieces"])
def test_levels_of_several_tokens_and_blanks_of_their_own_are_compared(tiny_tokenizer, form, vocabulary):
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer(vocabulary)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, initializer_range=0.2)).eval()
    found = prepared(Checkpoint("tiny", model, tokenizer), FORMATS[form]).check
    assert found.difference < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["mistral", "gemma2"])
def test_an_engine_that_forgets_the_window_is_refused(checkpoint, monkeypatch, family, dtype):
    windows = engine.attention_windows
    monkeypatch.setattr(engine, "attention_windows", lambda model: dict.fromkeys(windows(model)))
    with pytest.raises(UserError, match=r"read with a shared prefix are off by 0\.\d+ on 4\d\d tokens"):
        prepared(checkpoint(family, dtype), FORMATS["ScoreNumber"])


@pytest.mark.parametrize("fault", ["cuts", "branches"])
def test_an_engine_whose_branches_or_cuts_are_misread_is_refused(checkpoint, monkeypatch, fault):
    """A check of one path alone would let both pass."""

    def uncut(tree: TokenTree, layer=None):
        knockouts, tree.knockouts = tree.knockouts, []
        try:
            return sight(tree, layer)
        finally:
            tree.knockouts = knockouts

    sight = TokenTree.sight
    if fault == "cuts":
        monkeypatch.setattr(TokenTree, "sight", uncut)
    else:  # every node sees all before it
        monkeypatch.setattr(tree, "row_sight", lambda trees, layer: _causal(trees, sight, layer))
    with pytest.raises(UserError, match="are off by"):
        prepared(checkpoint("llama"), FORMATS["ScoreNumber"])


def _causal(trees, sight, layer):
    import numpy as np

    if any(tree.knockouts for tree in trees) or len(trees) > 1:
        return _side_by_side(trees, layer)
    return np.tri(len(trees[0].tokens), dtype=bool)


_side_by_side = tree.row_sight


def test_a_model_that_takes_other_arguments_is_refused_in_one_sentence(checkpoint, monkeypatch):
    def narrow(input_ids):
        raise AssertionError("never reached")

    tiny = checkpoint("llama")
    monkeypatch.setattr(tiny.model, "forward", narrow)
    with pytest.raises(UserError, match=r"LlamaForCausalLM cannot be read with a shared prefix: .*attention_"):
        prepared(tiny, FORMATS["ScoreNumber"])


def test_a_head_that_is_not_known_is_refused(checkpoint, monkeypatch):
    tiny = checkpoint("llama")
    own = tiny.model.lm_head.forward
    monkeypatch.setattr(tiny.model.lm_head, "forward", lambda hidden: own(hidden) * 3)
    with pytest.raises(UserError, match="its head does something that is not known here"):
        prepared(tiny, FORMATS["ScoreNumber"])


def test_the_allowed_difference_follows_the_models_own_noise(checkpoint, monkeypatch):
    """A model that is noisy at another batch shape may differ from the engine as much; a quiet one may not."""
    by_model = check._by_model
    noisy = lambda *given, halves=False: by_model(*given, halves=halves) + 0.01 * (len(given[1]) > 1 or halves)  # noqa: E731
    monkeypatch.setattr(check, "_by_model", noisy)
    found = prepared(checkpoint("llama"), FORMATS["ScoreNumber"]).check
    assert found.noise == pytest.approx(0.01, abs=1e-5) and found.allowed == pytest.approx(0.03, abs=1e-4)
    by_engine = check._by_engine
    monkeypatch.setattr(check, "_by_engine", lambda *given: by_engine(*given) + 0.02)
    prepared(checkpoint("llama"), FORMATS["ScoreNumber"])
    monkeypatch.setattr(check, "_by_model", by_model)
    with pytest.raises(UserError, match=r"off by 0\.02 .* 0\.0001 is allowed"):
        prepared(checkpoint("llama"), FORMATS["ScoreNumber"])


def test_the_long_check_goes_beyond_the_window_and_the_short_one_says_that_it_did_not(checkpoint):
    tiny = checkpoint("mistral")
    tiny.model.config.sliding_window = 700
    for module in tiny.model.modules():
        if hasattr(module, "sliding_window"):
            module.sliding_window = 700
    short = prepared(tiny, FORMATS["ScoreNumber"]).check
    assert short.tokens < 520 and "its window of 700 tokens was not reached, --check long does" in short.sentence
    long = prepared(tiny, FORMATS["ScoreNumber"], check_long=True).check
    assert 700 < long.tokens < 780 and "not reached" not in long.sentence


def test_a_context_shorter_than_the_reach_is_not_exceeded(checkpoint):
    tiny = checkpoint("llama")
    tiny.model.config.max_position_embeddings = 300
    assert prepared(tiny, FORMATS["ScoreNumber"]).check.tokens < 300


def test_the_sentence_says_what_was_reached():
    found = EngineCheck(512, None, 3e-7, 1e-8, 1e-4)
    assert found.sentence.endswith("to 3e-07 on 512 tokens (the model's own noise is 1e-08, 0.0001 is allowed)")
    assert "window" not in found.sentence
