"""Entry point of `python -m runner.options.advise`, the same command as `runner-advise`."""

from runner.options.advise.command import entry

if __name__ == "__main__":
    entry()
