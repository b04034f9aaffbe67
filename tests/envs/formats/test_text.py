"""Reading text files whose encoding is not known."""

from __future__ import annotations

import pytest

from ncogym.envs.formats import text
from ncogym.errors import InstanceError


@pytest.mark.parametrize(
    ("raw", "read"),
    [(b"3 4\n", "3 4\n"), (b"\xef\xbb\xbf3 4\n", "3 4\n"), ("é 1".encode(), "é 1"), ("é 1".encode("latin-1"), "é 1")],
)
def test_text_is_decoded(tmp_path, raw, read):
    """UTF-8 is read with or without its mark, and what is none as Latin-1."""
    (tmp_path / "a").write_bytes(raw)
    assert text.read_text(tmp_path / "a") == read


def test_what_is_no_text_is_refused(tmp_path, monkeypatch):
    """A missing file, a folder, binary data and a huge file are told in a few words."""
    (tmp_path / "binary").write_bytes(b"3\0004")
    (tmp_path / "large").write_bytes(b"12345678 9")
    monkeypatch.setattr(text, "MAX_BYTES", 8)
    for name, words in (("none", "no such file"), (".", "directory"), ("binary", "binary"), ("large", "64 MB")):
        with pytest.raises(InstanceError, match=words):
            text.read_text(tmp_path / name)
