"""`python -m interp.compare BEFORE AFTER`: what a training changed."""

from interp.cli.compare import run

if __name__ == "__main__":
    run()
