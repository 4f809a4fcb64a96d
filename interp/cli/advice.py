"""`advice NAME` is `python -m` of the module behind that name, or an instrument."""

import runpy
import sys

from interp.cli import diagnose
from interp.errors import UserError
from interp.instruments.registry import INSTRUMENTS
from interp.plain import visible

COMMANDS = {
    "diagnose": ("interp.diagnose", "answer-independence with the usual instruments, Figures 2 and 3"),
    "evaluate": ("interp.evaluate", "calibration, Figures 1 and 5"),
    "compare": ("interp.compare", "two checkpoints, question by question"),
    "report": ("interp.report", "finished runs as one page"),
    "power": ("interp.power", "how many questions a run needs, from a pilot run"),
    "prompts": ("interp.prompts", "a prompt with its tokens coloured by span"),
    "figures": ("figures", "the table, figures and page of a run again"),
    "triplets": ("training.triplets", "right and wrong answers to train on"),
    "train": ("training.advice", "an ADVICE adapter"),
    "conftuner": ("training.conftuner", "a ConfTuner adapter"),
    "ablation": ("training.ablation", "the paper's ablation"),
    "organisms": ("training.organisms", "adapters whose confidence depends on one thing, to test instruments with"),
    "examine": ("training.examine", "every instrument on every organism: which sees what"),
    "experiment": ("training", "ADVICE and its rival on the embedded model, whole"),
}
"""By name: the module and what it is for. Every instrument is a command beside them."""


def main() -> None:
    """Runs the command that is named first. Exit code 2 and one sentence where it is none."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    try:
        _run(name)
    except UserError as error:  # another package's instrument that cannot be imported
        print(f"error: {visible(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(name: str) -> None:
    if name in ("-h", "--help"):
        about = {command: words for command, (_, words) in COMMANDS.items()}
        about |= {command: instrument.about for command, instrument in INSTRUMENTS.items()}
        print("usage: advice NAME [options]; advice NAME --help lists them\n")
        print("\n".join(f"  {command:12} {words}" for command, words in about.items()))
        return
    sys.argv = [f"advice {name}", *sys.argv[2:]]
    if name in COMMANDS:
        runpy.run_module(COMMANDS[name][0], run_name="__main__")
    elif name in INSTRUMENTS:
        diagnose.run(name)
    else:
        names = ", ".join((*COMMANDS, *INSTRUMENTS))
        raise UserError(f"advice {name}: no such command; there are {names}")
