"""`python -m interp.masking`: the confidence with the answer hidden."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("masking")
