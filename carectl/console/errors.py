"""Errors as sentences on stderr, each with its exit code."""

from __future__ import annotations

import errno
import sys
from typing import Any

from care_core.errors import CareError, SpecError, StorageError
from care_core.files import storage_error
from carectl import redaction
from carectl.console.clean import clean
from carectl.console.output import VERSION
from carectl.errors import ENVIRONMENT, USAGE, CommandError

DEFECT = 1  # as Python says it


def explain(error: Exception, as_json: bool = False) -> int | None:
    """Print a foreseen error and return its exit code; None for what is a defect of ours."""
    from pathlib import Path

    from carectl.specs import SpecFileError

    call: Any = error
    if hasattr(call, "format_message"):  # typer's, of how it was called; it names no type for it
        call.show()  # with the command whose help says more
        if as_json:
            _emit(call.format_message(), USAGE, [])
        return USAGE
    if isinstance(error, SpecFileError):
        code = USAGE
    elif isinstance(error, CommandError):
        code = error.code
    elif isinstance(error, CareError):
        code = USAGE if isinstance(error, SpecError) else ENVIRONMENT
    elif isinstance(error, FileNotFoundError) and error.filename:
        error, code = StorageError(f"{error.filename} is not there; put it back"), ENVIRONMENT
    elif isinstance(error, OSError) and error.filename:
        error, code = storage_error(Path(str(error.filename)), error), ENVIRONMENT
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error, code = StorageError("the disk to which this prints is full"), ENVIRONMENT
    else:
        return None
    message = redaction.text(str(error))
    if as_json:
        _emit(message, code, [vars(each) for each in getattr(error, "problems", ())])
    lead = "" if isinstance(error, SpecFileError) else "error: "
    print(f"{lead}{clean(message)}", file=sys.stderr)
    return code


def defect(error: Exception, as_json: bool = False) -> int:
    """Print what nobody foresaw, with its traceback, and return its exit code."""
    import traceback

    lines = redaction.text("".join(traceback.format_exception(error)))
    if as_json:
        _emit(lines.splitlines()[-1], DEFECT, [])
    print(clean(lines), end="", file=sys.stderr)
    print("Next: report the lines above, a defect of carectl's own", file=sys.stderr)
    return DEFECT


def _emit(message: str, code: int, problems: list[dict[str, Any]]) -> None:
    import json

    found = {"message": message, "exit_code": code, "problems": problems}
    print(json.dumps({"version": VERSION, "error": found}))
