"""Writing files so that a reader, and a run that was killed, finds the old contents or the new."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path in the same folder, which replaces `file` if the block ends without an error."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)


def write(file: Path, text: str) -> None:
    """Replace the contents of a file by a text, with its newlines as they are."""
    with replacing(file) as temporary:
        temporary.write_text(text, newline="")


def write_csv(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write a CSV file, whose columns are the keys of all rows in the order of first occurrence."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(k for row in rows for k in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write(file, text.getvalue())
