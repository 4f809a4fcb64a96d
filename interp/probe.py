"""`python -m interp.probe`: what a linear probe knows about the answer, said or not."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("probe")
