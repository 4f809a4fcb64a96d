"""`python -m interp.attribution`: integrated gradients of the answer, and its rank among all tokens."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("attribution")
