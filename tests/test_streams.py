"""Residual streams are those of the transcript's own places, and come back from their files as they were."""

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from test_residual import shown

from interp.errors import UserError
from interp.models import streams
from interp.models.streams import PLACES, layers_kept, loaded, places_of, written


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_are_those_of_the_places_in_one_plain_pass(tiny_setting, open_questions, family):
    setting = tiny_setting(family)
    answered = [
        (question, answer) for question, answer in zip(open_questions[:3], ("Kid", "Kitten", "Ice"), strict=True)
    ]
    found = streams.streams(setting, answered)
    assert layers_kept(setting) == (0, 3)
    for (question, answer), stream in zip(answered, found, strict=True):
        transcript = setting.prompter.transcript(question, answer)
        ids, places = places_of(setting, transcript)
        assert stream.shape == (len(PLACES), 2, 48) and ids[: len(transcript.ids)] == transcript.ids
        passed = shown(setting.checkpoint.model, list(ids))
        for place, name in enumerate(PLACES):
            for number, layer in enumerate((0, 3)):
                assert (stream[place, number] - passed[layer][places[name]]).abs().max() < 1e-4


def test_places_are_where_their_names_say(tiny_setting, open_questions):
    setting = tiny_setting("llama")
    transcript = setting.prompter.transcript(open_questions[0], "Kid")
    ids, places = places_of(setting, transcript)
    pieces = [setting.checkpoint.tokenizer.decode([ids[places[name]]]) for name in PLACES]
    assert pieces[2] == "\n" and pieces[3].endswith(":") and pieces[4] == " ", pieces
    assert transcript.spans[places["question"]] == "question" and transcript.spans[places["answer"]] == "answer"
    assert transcript.spans[places["answer"] + 1] == "tail" == transcript.spans[places["tail"]]


@pytest.mark.parametrize(("parameters", "within"), [(10**6, 0.0), (10**9, 1e-3)])
def test_streams_come_back_from_their_file(tmp_path, parameters, within):
    made = {f"q {i} \u2028": torch.randn(5, 2, 8) * 10.0**i for i in range(3)} | {"0": torch.zeros(5, 2, 8)}
    name = written(tmp_path, 1, made, parameters)
    again = loaded(tmp_path, dict.fromkeys(reversed(made), name))
    assert again.shape == (4, 5, 2, 8) and again.dtype == np.float32
    for stream, other in zip(reversed(made.values()), again, strict=True):
        assert np.abs(other - stream.numpy()).max() <= within * stream.abs().max()


def test_a_file_that_is_not_there_or_torn_is_one_sentence(tmp_path):
    name = written(tmp_path, 0, {"a": torch.zeros(5, 1, 2)}, 1)
    with pytest.raises(UserError, match="not whole"):
        loaded(tmp_path, {"b": name})
    (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(UserError, match="not whole"):
        loaded(tmp_path, {"a": name})
    with pytest.raises(UserError, match="not whole"):
        loaded(tmp_path, {"a": "streams/none.safetensors"})
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is kept"):
        written(tmp_path / "file", 0, {"a": torch.zeros(5, 1, 2)}, 1)
