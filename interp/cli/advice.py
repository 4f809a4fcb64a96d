"""`advice NAME` is `python -m` of the module behind that name."""

import runpy
import sys

COMMANDS = {
    "diagnose": ("interp.diagnose", "answer-independence with four instruments, Figures 2 and 3"),
    "jsd": ("interp.jsd", "divergence of the confidences after right and wrong answers"),
    "rollout": ("interp.rollout", "attention rollout by span"),
    "attribution": ("interp.attribution", "integrated gradients of the answer"),
    "masking": ("interp.masking", "confidence with the answer hidden"),
    "evaluate": ("interp.evaluate", "calibration, Figures 1 and 5"),
    "compare": ("interp.compare", "two checkpoints, question by question"),
    "prompts": ("interp.prompts", "a prompt with its tokens coloured by span"),
    "figures": ("figures", "the table and figures of a run again"),
    "triplets": ("training.triplets", "right and wrong answers to train on"),
    "train": ("training.advice", "an ADVICE adapter"),
    "conftuner": ("training.conftuner", "a ConfTuner adapter"),
    "ablation": ("training.ablation", "the paper's ablation"),
    "experiment": ("training", "ADVICE and its rival on the embedded model, whole"),
}
"""By name: the module and what it is for."""


def main() -> None:
    """Runs the command that is named first. Exit code 2 and one sentence where it is none."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: advice NAME [options]; advice NAME --help lists them\n")
        print("\n".join(f"  {known:12} {words}" for known, (_, words) in COMMANDS.items()))
        return
    if name not in COMMANDS:
        print(f"error: advice {name}: no such command; there are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    sys.argv = [f"advice {name}", *sys.argv[2:]]
    runpy.run_module(COMMANDS[name][0], run_name="__main__")
