"""`python -m interp.power RUN`: how many questions an interval of a wished width needs, from a pilot run."""

from interp.cli.power import run

if __name__ == "__main__":
    run()
