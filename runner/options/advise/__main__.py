"""`python -m runner.options.advise`."""

from runner.options.advise.command import entry

if __name__ == "__main__":
    entry()
