"""Every command and every line of Python of the README runs as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ncogym.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
    if line.strip()
]


def test_the_first_two_commands_are_targets() -> None:
    """`make demo` and `make test` are there, and are targets of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = [command.removeprefix("make ") for command in COMMANDS if command.startswith("make ")]
    assert targets == ["demo", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith(".venv/bin/ncogym ")])
def test_command_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command ends with exit code 0; what it writes to out/ goes elsewhere, and seconds are shortened."""
    monkeypatch.chdir(ROOT)
    arguments = [word.replace("out/", f"{tmp_path}/") for word in shlex.split(command)[1:]]
    if "--seconds" in arguments:
        arguments[arguments.index("--seconds") + 1] = "0.4"
    assert main(arguments) == 0


def test_every_command_is_tried() -> None:
    """No other kind of command hides in the README."""
    assert all(command.startswith(("make ", ".venv/bin/ncogym ")) for command in COMMANDS)


def test_python_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python of the README runs."""
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
