"""Self-Consistency: answers are sampled, equal ones are grouped, and the largest group gives answer and confidence.

The confidence is the sum of what the group's members state, or their number, over all samples."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.datasets.choices import choice_index
from interp.datasets.words import normalised
from interp.formats import ConfidenceFormat
from interp.methods.base import Answered, Asking, Draws, Method, Score, Verdict
from interp.methods.default import spoken
from interp.run.runs import Record

if TYPE_CHECKING:
    from interp.models.elicitation import Continuation
    from interp.models.prefix import PromptsRead
    from interp.models.setting import Setting


def sampled(setting: "Setting", answered: Sequence[Answered], draws: Draws) -> list[Record]:
    """Several sampled answers to each question, each with the confidence after it; each prompt is read once.

    Args:
        setting: the model in its format.
        answered: the questions; their answers play no part.
        draws: how samples are drawn.

    Returns:
        For each question the samples that are whole answers, how many were drawn ("of"), the tokens written, and the
        question's choices.
    """
    from interp.answers import answer_of
    from interp.models.elicitation import slot_reply, source_of_chance

    questions = [item.question for item in answered]
    prompt_ids = [setting.prompter.transcript(question).ids for question in questions]
    numbered = [(i, k) for i in range(len(questions)) for k in range(draws.samples)]  # (question, sample)
    readings: dict[tuple[int, str], Record] = {}  # by (question, answer)

    def answer(number: int, sample: "Continuation") -> str | None:
        question = questions[numbered[number][0]]
        return answer_of(setting, question, slot_reply(sample, question).answer)

    def heard(
        numbers: Sequence[int], written: "Sequence[Continuation]", prompts: "PromptsRead", owners: Sequence[int]
    ) -> None:
        """Reads the confidences after a batch of samples while its prompts are at hand, as `elicitation.Heard` says."""
        put: dict[tuple[int, str], int] = {}  # the same answer to the same question is read once
        for number, sample, prompt in zip(numbers, written, owners, strict=True):
            if text := answer(number, sample):
                put[numbered[number][0], text] = prompt
        records = spoken(setting, [(questions[i], text) for i, text in put], prompts, list(put.values()))
        readings.update(zip(put, records, strict=True))

    written = setting.generator.sampled(
        [prompt_ids[i] for i, _ in numbered],
        [source_of_chance(draws.seed, questions[i], k) for i, k in numbered],
        top_p=draws.top_p,
        heard=heard,
    )
    records = []
    for i, question in enumerate(questions):
        numbers = [number for number, (j, _) in enumerate(numbered) if j == i]
        answers = [answer(number, written[number]) for number in numbers]
        usable = [readings[i, text] | {"answer": text} for text in answers if text is not None]
        tokens = sum(written[number].tokens for number in numbers)
        tokens += sum(reading["level_tokens"] for reading in usable)
        records.append({"samples": usable, "of": draws.samples, "tokens": tokens, "choices": list(question.choices)})
    return records


def _consistent(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """Each sample weighs as much as the confidence that is stated after it."""
    return _largest(record, [confidence.values[sample["stated"]] for sample in record["samples"]])


def _agreeing(record: Record, confidence: ConfidenceFormat, answer: str | None) -> Verdict | None:
    """Each sample weighs 1: the confidence is the share of samples that give the answer."""
    return _largest(record, [1.0] * len(record["samples"]))


def _largest(record: Record, weights: Sequence[float]) -> Verdict | None:
    """The answer of the largest group of samples, and the sum of its members' weights over the number of samples drawn.

    Among groups of equal size the one with more weight counts, then the one that came first.

    weights: one for each sample of the record, in [0, 1]. None where there is no sample."""
    groups: dict[object, list[int]] = {}
    for number, sample in enumerate(record["samples"]):
        groups.setdefault(_same(sample["answer"], record["choices"]), []).append(number)
    if not groups:
        return None
    largest = max(groups.values(), key=lambda members: (len(members), sum(weights[i] for i in members)))
    return Verdict(record["samples"][largest[0]]["answer"], sum(weights[i] for i in largest) / record["of"])


def share_agreeing(record: Record, answer: str) -> float:
    """The share of the samples drawn that give this answer, in [0, 1]. record: one of `sampled`."""
    meant = _same(answer, record["choices"])
    agreeing = sum(_same(sample["answer"], record["choices"]) == meant for sample in record["samples"])
    return agreeing / float(record["of"])


def _same(answer: str, choices: Sequence[str]) -> object:
    """The key of an answer's group: the choice that it names, else its normalised text."""
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
