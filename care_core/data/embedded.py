"""What the sets that need no files come from. Torch-free.

The digits are in a file inside scikit-learn, which is read without importing it.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import zlib
from pathlib import Path

from care_core.errors import DataError

#: Raised when the construction of the images from this source changes (care_core.data.digits).
VERSION = 1

#: Raised when the construction of the chains changes (care_core.data.chains).
CHAINS_VERSION = 1


def digits_csv() -> bytes:
    """The decompressed CSV inside scikit-learn: 64 intensities of 0 to 16 and a digit a line.

    scikit-learn itself is not imported, which would take a second.
    """
    package = importlib.util.find_spec("sklearn")
    if package is None or package.origin is None:
        raise DataError("digits: scikit-learn is not installed; pip install scikit-learn")
    path = Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz"
    try:
        return gzip.decompress(path.read_bytes())
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"digits: {path} cannot be read; reinstall scikit-learn") from error


def digits_fingerprint() -> str:
    """sha256 of what the images are made from."""
    return hashlib.sha256(digits_csv() + f"/{VERSION}".encode()).hexdigest()


def chains_fingerprint() -> str:
    """sha256 of what the chains are made from: this version of the code that generates them."""
    return hashlib.sha256(f"chains/{CHAINS_VERSION}".encode()).hexdigest()
