"""`python -m training`: the whole experiment on the embedded model, from questions to outcomes."""

from interp.cli.command import run_as_command
from interp.errors import UserError
from interp.run.processes import launched
from training.experiment import Experiment, steps
from training.schedule import run_in_order, run_side_by_side


def experiment(options: Experiment) -> None:
    """Runs every step that is not finished yet, and prints how long each took.

    Raises:
        UserError: where it is launched in several processes, there is no step of the name, or a step fails.
    """
    if launched(options.device).count > 1:
        raise UserError("the experiment starts its own processes (--workers); launch its steps' commands in several")
    wanted = [step for step in steps(options) if options.only in (None, step.name)]
    if not wanted:
        names = ", ".join(step.name for step in steps(options))
        raise UserError(f"--only {options.only}: the steps are {names}")
    if options.workers == 1 or options.only:
        run_in_order(wanted)
    else:
        run_side_by_side(wanted, options)


if __name__ == "__main__":
    run_as_command(Experiment, experiment, description=__doc__)
