"""Self-Consistency: sampled answers, the largest group of equal ones, and what they state or how many they are."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.datasets.questions import choice_index, normalised
from interp.formats import ConfidenceFormat
from interp.methods.base import Answered, Asking, Draws, Method, Score, Verdict
from interp.methods.default import spoken
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.elicitation import Continuation
    from interp.models.prefix import PromptsRead
    from interp.models.setting import Setting


def sampled(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """Several sampled answers to each question, each with the confidence stated after it; the prompt is read once."""
    from interp.models.elicitation import source_of_chance

    questions = [one.question for one in answered]
    asked = [setting.prompter.transcript(question).ids for question in questions]
    numbered = [(i, k) for i in range(len(questions)) for k in range(draws.samples)]
    readings: dict[tuple[int, str], Record] = {}

    def heard(
        numbers: Sequence[int], written: "Sequence[Continuation]", prompts: "PromptsRead", owners: Sequence[int]
    ) -> None:
        put: dict[tuple[int, str], int] = {}  # the same words to the same question are read once
        for number, said, prompt in zip(numbers, written, owners, strict=True):
            i, _ = numbered[number]
            if said.finished and said.text and setting.prompter.speakable(questions[i], said.text):
                put[i, said.text] = prompt
        records = spoken(setting, [(questions[i], text) for i, text in put], prompts, list(put.values()))
        readings.update(zip(put, records, strict=True))

    written = setting.generator.sampled(
        [asked[i] for i, _ in numbered],
        [source_of_chance(draws.seed, questions[i], k) for i, k in numbered],
        top_p=draws.top_p,
        heard=heard,
    )
    records = []
    for i, question in enumerate(questions):
        samples = [said for (j, _), said in zip(numbered, written, strict=True) if j == i]
        own = [
            readings[i, said.text] | {"answer": said.text}
            for said in samples
            if said.finished and (i, said.text) in readings
        ]
        tokens = sum(said.tokens for said in samples)
        tokens += sum(one["level_tokens"] for one in own)
        records.append({"samples": own, "of": draws.samples, "tokens": tokens, "choices": list(question.choices)})
    return records


def _consistent(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    return _largest(record, [confidence.values[sample["stated"]] for sample in record["samples"]])


def _agreeing(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    return _largest(record, [1.0] * len(record["samples"]))


def _largest(record: Record, weights: Sequence[float]) -> Verdict | None:
    """The largest group of samples that give one answer, and the sum of its members' weights over all samples.

    Among groups of one size the one with more weight, then the one that came first."""
    groups: dict[object, list[int]] = {}
    for number, sample in enumerate(record["samples"]):
        groups.setdefault(_same(sample["answer"], record["choices"]), []).append(number)
    if not groups:
        return None
    largest = max(groups.values(), key=lambda members: (len(members), sum(weights[i] for i in members)))
    return Verdict(record["samples"][largest[0]]["answer"], sum(weights[i] for i in largest) / record["of"])


def _same(answer: str, choices: Sequence[str]) -> object:
    """What answers of one group have in common: the choice that they name, else the normalised text."""
    named = choice_index(answer, choices) if choices else None
    return named if named is not None else normalised(answer) or answer


SELF_CONSISTENCY = Method(
    name="self-consistency",
    about="The summed stated confidence of the largest group of samples, and plain agreement.",
    asking=Asking(name="sampled", put=sampled, chunk=64, answers_itself=True),
    scores=(
        Score("self_consistency", "Self-Consistency", _consistent),
        Score("agreement", "agreement of samples", _agreeing),
    ),
)
