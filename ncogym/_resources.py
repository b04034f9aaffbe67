"""Where the files that travel with the package lie, and what a number's origin is told by."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ncogym.errors import NcogymError

_PACKAGE = Path(__file__).parent

PACKAGES = ("ncogym", "torch", "tensordict", "torchrl", "lightning", "numpy", "ortools", "pyvrp", "hygese", "fast_tsp")


def configs_folder() -> Path:
    """Return the folder of the published run configurations.

    A wheel carries them inside the package; in a checkout they lie at its top, beside the package.

    Raises:
        NcogymError: the installation is incomplete.
    """
    places = [_PACKAGE / "configs", _PACKAGE.parent / "configs"]
    for folder in places:
        if folder.is_dir():
            return folder
    raise NcogymError(f"configs: found at neither {places[0]} nor {places[1]}; install ncogym again")


def find_config(text: str) -> Path | None:
    """Return the published run configuration that a name or a path of before is of, or None.

    Args:
        text: its place in `configs_folder`, with or without the suffix; its file's name; or the path that it had once.
    """
    folder, name = configs_folder(), Path(text).name.removesuffix(".yaml")
    whole = folder / f"{text.removesuffix('.yaml')}.yaml"
    if whole.is_file():
        return whole
    if not {*Path(text).parent.parts} <= {"configs", "results"}:  # where they lay before
        return None
    return next((path for path in sorted(folder.rglob("*.yaml")) if path.stem == name), None)


def cache_folder() -> Path:
    """Return the user's cache: ``NCOGYM_CACHE``, else ``XDG_CACHE_HOME/ncogym``, else ``~/.cache/ncogym``.

    A user without a home (a number without a name, in a container) has a folder of their own among the temporary files.
    """
    named = os.environ.get("NCOGYM_CACHE")
    folder = Path(named or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "ncogym")
    try:
        return folder.expanduser()
    except RuntimeError:  # there is no home
        return Path(tempfile.gettempdir()) / f"ncogym-{os.getuid()}"


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide numbers, of those that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str | None:
    """Return the commit of the checkout that the package lies in, or None.

    A ``+`` after it says that the package or the configs are not as they were committed.
    """

    def ask(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=_PACKAGE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return ask("rev-parse", "HEAD") + ("+" if ask("status", "--porcelain", "--", ".", "../configs") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> str:
    """Return what computes here, in words: the processor, its cores that this process may use, and the memory."""
    name, memory = platform.processor() or platform.machine(), ""
    if sys.platform == "linux":
        told = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in told if line.startswith("model name")), name)
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores{memory}"
