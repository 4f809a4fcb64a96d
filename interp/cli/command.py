"""How a command begins and ends: options read, errors in a sentence, results printed and drawn."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import tyro

from interp.errors import UserError, ran_out_of_memory
from interp.options import AnyCommand, dry_run_of
from interp.plain import HALF, visible
from interp.run.dryrun import DryRun
from interp.run.processes import launched

T = TypeVar("T")
Work = Callable[[AnyCommand, DryRun | None], Path]
"""What a command does, dry or not; it returns the directory of its run."""


def run_as_command(options: type[T], body: Callable[[T], None], *, description: str | Callable[[], str]) -> None:
    """Reads the options from the command line and runs the body.

    Exit code 2 and one sentence for bad input, 130 when interrupted; the same command then continues."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        if odd := next((argument for argument in sys.argv if HALF.search(argument)), None):
            raise UserError(f"{odd}: not UTF-8 text")
        module = sys.modules["__main__"].__spec__
        prog = f"python -m {module.name.removesuffix('.__main__')}" if module else None
        arguments = list(_with_new_names(sys.argv[1:]))
        about = description if isinstance(description, str) else description()
        body(tyro.cli(options, prog=prog, description=about, args=arguments, config=(tyro.conf.OmitArgPrefixes,)))
    except UserError as error:
        _end(str(error))
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        _end(f"{what}; what was measured so far is kept")
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        _end("memory ran out; take a smaller --dtype or another device; what was measured so far is kept")
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        raise SystemExit(130) from None


RENAMED = {"--turned": "--greedy-wrong"}
"""Options by their names in version 0.1."""
RENAMED_VALUES = {("--wrong", "foil"): "distractor"}
"""Values of options by their names in version 0.1."""


def _with_new_names(arguments: Sequence[str]) -> Iterator[str]:
    """The command line with what version 0.1 called otherwise by its name now; says so."""
    for before, argument in zip(("", *arguments), arguments, strict=False):
        name, equals, value = argument.partition("=")
        new = RENAMED.get(name, name) + equals + RENAMED_VALUES.get((name, value), value)
        new = RENAMED_VALUES.get((before, argument), new)
        if new != argument:
            print(f"note: {argument} is now called {new}; from version 0.3 on only that is known", file=sys.stderr)
        yield new


def drawing(work: Work[AnyCommand]) -> Callable[[AnyCommand], None]:
    """The body of a command that prints its run's table and draws its figures; of a dry run, what that foresees."""

    def body(options: AnyCommand) -> None:
        dry = dry_run_of(options)
        folder = work(options, dry)
        if launched(options.computing.device).first:
            from figures.report import reported

            reported(folder, dry=dry)

    return body


def printing(work: Work[AnyCommand]) -> Callable[[AnyCommand], None]:
    """The body of a command that prints where its work is; of a dry run, what that foresees."""

    def body(options: AnyCommand) -> None:
        dry = dry_run_of(options)
        done = work(options, dry)
        if dry:
            from figures.dryrun import printed_dry_run

            printed_dry_run(dry, done)
        else:
            print(done)

    return body


def _end(what: str) -> NoReturn:
    """Exit code 2 and one sentence; with several processes, which of them says it."""
    index, count = (os.environ.get(name) for name in ("RANK", "WORLD_SIZE"))
    process = f", process {index} of {count}" if count not in (None, "1") else ""
    print(f"error{process}: {visible(what)}", file=sys.stderr)
    raise SystemExit(2)
