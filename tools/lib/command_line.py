"""The parser of a tool's command line, as every tool has it."""

import argparse


def parser_of(name: str, told: str | None) -> argparse.ArgumentParser:
    """A parser whose usage says `graft NAME`, and whose help is `told`, the module's docstring, line by line."""
    return argparse.ArgumentParser(
        prog=f"graft {name}", description=told, formatter_class=argparse.RawDescriptionHelpFormatter
    )
