"""`python -m interp.prompts`: a prompt with its tokens coloured by span."""

from interp.cli.prompts import run

if __name__ == "__main__":
    run()
