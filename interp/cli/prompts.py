"""The command that prints prompts, their tokens coloured by span."""

import sys
from dataclasses import dataclass

import tyro

from interp.cli.command import run_as_command
from interp.models.prompts import Prompter, shot_set
from interp.options import Options, refuse_sets_of_nothing
from interp.plain import visible
from interp.records import Span, Transcript

COLOURS: dict[Span, str] = {
    "special": "90",
    "instruction": "36",
    "shots": "34",
    "question": "32",
    "answer": "1;31",
    "tail": "35",
    "confidence": "1;33",
}
"""Terminal colours of the spans."""


def coloured(transcript: Transcript, *, colour: bool = True) -> str:
    """The prompt with its tokens set apart and coloured by span, and a line that says what each colour means.

    Without colour each run of tokens of one span is preceded by its name instead."""
    parts, before = [], None
    for piece, span in zip(transcript.pieces, transcript.spans, strict=True):
        if not colour and span != before:
            parts.append(f"[{span}]")
        plain = "\n".join(map(visible, piece.split("\n")))
        parts.append(f"\x1b[{COLOURS[span]}m{plain}\x1b[0m\x1b[2m|\x1b[0m" if colour else f"{plain}|")
        before = span
    counts = {span: len(transcript.positions(span)) for span in COLOURS if span in transcript.spans}
    keys = [f"\x1b[{COLOURS[s]}m{s} {n}\x1b[0m" if colour else f"{s} {n}" for s, n in counts.items()]
    return "".join(parts) + "\n\n" + ", ".join(keys) + f": {len(transcript.ids)} tokens"


@dataclass(frozen=True, kw_only=True)
class ShowPrompts(Options):
    """Print prompts with their tokens coloured by span, answered right with the highest confidence."""

    n: int = 1
    """How many prompts to print."""
    dry_run: tyro.conf.Suppress[bool] = False


def show(options: ShowPrompts) -> None:
    """Prints the prompts."""
    from interp.datasets.questions import loaded_questions, shuffled
    from interp.formats import FORMATS
    from interp.models.checkpoints import loaded_tokenizer

    tokenizer, shots = loaded_tokenizer(options.ckpt, remote_code=options.trust_remote_code)
    questions = shuffled(loaded_questions(options.data), options.seed)[: options.n]
    confidence, choices = FORMATS[options.format], bool(questions[0].choices)
    count = shots if options.shots is None else options.shots
    refuse_sets_of_nothing(options.shot_sets, count)
    for number in range(options.shot_sets):
        examples = shot_set(count, confidence, seed=number, choices=choices)
        prompter = Prompter(
            tokenizer,
            confidence,
            examples,
            choices,
            options.template,
            options.template_arguments,
            date=options.date,
        )
        for question in questions:
            answer = question.response or question.answers[0]
            shown = prompter.transcript(question, answer, level=confidence.levels[-1])
            print(coloured(shown, colour=sys.stdout.isatty()), end="\n\n")


def run() -> None:
    """Runs `python -m interp.prompts`."""
    run_as_command(ShowPrompts, show, description=str(ShowPrompts.__doc__))
