"""The command that prints prompts, their tokens coloured by span."""

import sys
from dataclasses import dataclass, field

from interp.cli.command import run_as_command
from interp.models.embedded import EMBEDDED_NAME
from interp.models.prompts import Prompter
from interp.models.shots import shot_set
from interp.options import Asked, Common, Prompt, refuse_sets_of_nothing
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
class ShowPrompts:
    """Print prompts with their tokens coloured by span, answered right with the highest confidence."""

    ckpt: str = EMBEDDED_NAME
    """The embedded model, a directory, a .gguf file, a hub id (name@revision), or a directory with a LoRA adapter."""
    asked: Asked = field(default_factory=lambda: Asked(n=1))
    prompt: Prompt = field(default_factory=Prompt)
    common: Common = field(default_factory=Common)


def show(options: ShowPrompts) -> None:
    """Prints the prompts."""
    from interp.datasets.questions import loaded_questions, shuffled
    from interp.formats import FORMATS
    from interp.models.checkpoints import loaded_tokenizer

    tokenizer, preset = loaded_tokenizer(options.ckpt, remote_code=options.common.trust_remote_code)
    questions = shuffled(loaded_questions(options.asked.data, options.common.fields), options.common.seed)[
        : options.asked.n
    ]
    confidence, choices = FORMATS[options.asked.format], bool(questions[0].choices)
    shots, prompting = options.prompt.shots_of(preset), options.prompt.prompting()
    refuse_sets_of_nothing(options.prompt.shot_sets, shots)
    for prompt_set in options.prompt.sets:
        examples = shot_set(shots, confidence, seed=prompt_set.examples, choices=choices)
        prompter = Prompter(
            tokenizer,
            confidence,
            examples,
            choices,
            prompting.template,
            prompting.template_args,
            date=prompting.date,
            wording=prompt_set.wording,
        )
        for question in questions:
            answer = question.response or question.answers[0]
            shown = prompter.transcript(question, answer, level=confidence.levels[-1])
            print(coloured(shown, colour=sys.stdout.isatty()), end="\n\n")


def run() -> None:
    """Runs `python -m interp.prompts`."""
    run_as_command(ShowPrompts, show, description=str(ShowPrompts.__doc__))
