"""`python -m interp.rollout`: attention rollout by span."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("rollout")
