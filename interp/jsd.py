"""`python -m interp.jsd`: the divergence of the confidences after a right and a wrong answer."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("jsd")
