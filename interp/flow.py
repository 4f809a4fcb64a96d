"""`python -m interp.flow`: on which way the answer reaches the stated confidence."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("flow")
