"""`python -m interp.diagnose`: the usual instruments, summary and figures."""

from interp.cli.diagnose import run

if __name__ == "__main__":
    run("diagnose")
