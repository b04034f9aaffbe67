"""What the readers of text files share."""

from __future__ import annotations

import os

from ncogym.errors import InstanceError

MAX_BYTES = 1 << 26


def read_text(path: str | os.PathLike[str]) -> str:
    """Return a file's text, in UTF-8 or else Latin-1.

    Raises:
        InstanceError: there is no such file, or it is no text or larger than 64 MB; the words do not name the file yet.
    """
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InstanceError((error.strerror or "cannot be read").lower()) from error
    if b"\0" in raw or len(raw) > MAX_BYTES:
        raise InstanceError("binary data or over 64 MB, a text file is needed")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
