"""Parsers of commands that are run as `python -m MODULE`."""

from __future__ import annotations

import argparse


def parser_of(module: str, doc: str | None) -> argparse.ArgumentParser:
    """One whose help shows the module's docstring as it is written."""
    return argparse.ArgumentParser(
        prog=module, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
