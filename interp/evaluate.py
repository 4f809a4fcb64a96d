"""`python -m interp.evaluate`: calibration of stated confidences."""

from interp.cli.evaluate import run

if __name__ == "__main__":
    run()
