"""`python -m interp.steering`: the confidence while a direction is added to the residual stream."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("steering")
