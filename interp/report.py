"""`python -m interp.report RUN [RUN ...]`: finished runs as one page."""

from interp.cli.report import run

if __name__ == "__main__":
    run()
