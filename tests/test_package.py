"""What the package shows from outside: its names, its cost to import, its docstrings and the files beside the code."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import pwd
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import pytest

import ncogym
from ncogym import _resources
from ncogym.errors import NcogymError

REPOSITORY = Path(__file__).parents[1]


def _loaded_by(statement: str, whole: bool = False) -> set[str]:
    """Return the modules that a new interpreter has loaded after ``statement``, of a package its own name alone."""
    names = "name if WHOLE else name.partition('.')[0]".replace("WHOLE", str(whole))
    script = f"{statement}\nimport sys\nprint('loaded', *{{{names} for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return set(run.stdout.rpartition("loaded")[2].split())


def _public_methods(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Yield the public methods and properties of the public classes that ``module`` defines, protocols left out."""
    for cls in vars(module).values():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__ or cls.__name__.startswith("_"):
            continue
        for name, value in vars(cls).items():
            is_method = inspect.isroutine(value) or isinstance(value, property | cached_property)
            if is_method and not name.startswith("_") and not getattr(cls, "_is_protocol", False):
                yield f"{module.__name__}.{cls.__name__}.{name}", getattr(cls, name)


def test_version_is_the_installed_one() -> None:
    """The version is 0.1.0, and an installed package's metadata agree."""
    assert ncogym.__version__ == "0.1.0"
    try:
        assert version("ncogym") == ncogym.__version__
    except PackageNotFoundError:
        pytest.skip("ncogym is not installed but imported from its checkout")


def test_import_is_light() -> None:
    """``import ncogym`` loads no package but itself: no torch, and so nothing that is built on it."""
    assert _loaded_by("import ncogym") - _loaded_by("") - set(sys.stdlib_module_names) == {"ncogym"}


def test_import_of_the_environments_is_without_training_and_plotting() -> None:
    """``ncogym.make`` brings neither lightning nor matplotlib nor any outside solver, and TorchRL when it is called."""
    heavy = {"torchrl", "lightning", "pytorch_lightning", "matplotlib", "ortools", "fast_tsp", "elkai"}
    assert not _loaded_by("import ncogym\nncogym.make") & heavy
    assert _loaded_by("import ncogym\nncogym.make('tsp', num_nodes=5)") & heavy == {"torchrl"}


def test_solving_a_file_loads_what_it_needs(data: Path) -> None:
    """A file is solved without TorchRL, Lightning, torch's compiler and outside solvers, with a policy or without."""
    heavy = {"torchrl", "lightning", "matplotlib", "ortools", "pyvrp", "hygese", "fast_tsp", "elkai"}
    heavy |= {"torch._dynamo", "torch.fx.experimental.symbolic_shapes"}
    for file, solver in (("square4.tsp", "two-opt"), ("square4.tsp", "auto"), ("cross4.vrp", "auto")):
        line = f"solve {data / file} --solver {solver} --rollouts 8"
        loaded = _loaded_by(f"from ncogym.cli import main\nassert main('{line}'.split()) == 0", whole=True)
        assert not loaded & heavy, (file, solver)


def test_the_compiler_is_told_when_it_comes() -> None:
    """What tensordict marks for torch's compiler is marked once that is imported, and its code is compiled as ever."""
    code = """
import sys
from ncogym._light import import_tensordict
import_tensordict()
assert "torch._dynamo" not in sys.modules
import torch
from tensordict import TensorDict, utils
twice = torch.compile(lambda held: held["a"] * 2, backend="eager", fullgraph=True)
assert twice(TensorDict({"a": torch.ones(2)}, [2])).tolist() == [2, 2]
from torch._dynamo import trace_rules
assert trace_rules.is_callable_allowed(utils._add_batch_dim_c)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ncogym.__all__)
def test_public_name_resolves(name: str) -> None:
    """Each promised name is there at its first use, the same at the second, and listed by dir."""
    assert getattr(ncogym, name) is getattr(ncogym, name)
    assert name in dir(ncogym)


def test_public_names_are_the_promised_ones() -> None:
    """The names that docs/design.md promises to Python users are public."""
    assert {"make", "load_policy", "solve", "evaluate", "search", "baselines", "laws", "envs"} <= set(ncogym.__all__)


def test_unknown_name_is_refused() -> None:
    """A mistyped name is an AttributeError that quotes it."""
    with pytest.raises(AttributeError, match="'mke'"):
        ncogym.mke  # noqa: B018 - the access is what is tested


def test_every_public_method_has_a_docstring() -> None:
    """Each public method and property says what it is, or the contract that it fulfils does."""
    modules = [importlib.import_module(info.name) for info in pkgutil.walk_packages(ncogym.__path__, "ncogym.")]
    methods = [method for module in modules for method in _public_methods(module)]
    assert len(methods) > 50
    assert [name for name, method in methods if not inspect.getdoc(method)] == []


def test_every_command_and_extra_is_declared() -> None:
    """pyproject.toml declares the command, and the extras that error messages name."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"ncogym": "ncogym.cli:main"}
    assert {"solvers", "lkh", "graph", "dev"} <= set(project["optional-dependencies"])


def test_constraints_pin_what_the_project_requires() -> None:
    """constraints.txt pins every requirement and extra of the project, each to one version and without an address."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    pinned = {name.lower().replace("_", "-") for name in pins}
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    required = {requirement.partition(">")[0].partition("[")[0].lower() for group in groups for requirement in group}
    assert required <= pinned
    assert all(value[0].isdigit() and "/" not in value for value in pins.values())


def test_configs_lie_at_the_top_of_a_checkout() -> None:
    """In a checkout the configs are the folder beside the package."""
    assert _resources.configs_folder() == REPOSITORY / "configs"


def test_configs_inside_the_package_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package reads its own configs, whatever folder of that name lies beside it."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "ncogym" / "configs").mkdir(parents=True)
    monkeypatch.setattr(_resources, "_PACKAGE", tmp_path / "ncogym")
    assert _resources.configs_folder() == tmp_path / "ncogym" / "configs"


def test_missing_configs_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without configs is told as such, with the places that were looked at."""
    monkeypatch.setattr(_resources, "_PACKAGE", tmp_path / "ncogym")
    with pytest.raises(NcogymError, match="configs: found at neither"):
        _resources.configs_folder()


def test_without_a_home_the_cache_is_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user number without a name and without HOME, as in containers, has a cache all the same."""
    for name in ("NCOGYM_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", dict[int, object]().__getitem__)
    assert _resources.cache_folder() == tmp_path / f"ncogym-{os.getuid()}"
    monkeypatch.setenv("NCOGYM_CACHE", str(tmp_path / "own"))
    assert _resources.cache_folder() == tmp_path / "own"
