"""Diagnostics of answer-independence in verbalized confidence.

`interp.load` takes a checkpoint or a model in memory; what it returns is asked, contrasted and diagnosed. Names are
imported when they are first used, so that `--help` stays fast."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.api import Calibration as Calibration
    from interp.api import Comparison as Comparison
    from interp.api import Contrast as Contrast
    from interp.api import Model as Model
    from interp.api import Result as Result
    from interp.api import load as load
    from interp.api import questions as questions
    from interp.api import read_run as read_run

PUBLIC = ("Calibration", "Comparison", "Contrast", "Model", "Result", "load", "questions", "read_run")
"""What `interp.api` offers under the package's own name."""


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    from interp import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return [*globals(), *PUBLIC]
