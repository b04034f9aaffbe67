"""What ``ncogym list`` lists."""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    pass

from ncogym.cli.common import DONE, NAMED
from ncogym.cli.output import make_console


def list_(section: Literal["envs", "sets", "policies", "solvers", "pretrained", "configs"] | None = None, /) -> int:
    """List what there is: problems, named instances, policy classes, solvers, trained policies, run configurations.

    Without a section it shows how many there are of each, and their names where these are few.

    Args:
        section: One of them, with a word on each.
    """
    sections = {
        "envs": _list_envs,
        "sets": _list_sets,
        "policies": _list_policies,
        "solvers": _list_solvers,
        "pretrained": _list_pretrained,
        "configs": _list_configs,
    }
    if section is None:
        for name, entries in sections.items():
            names = [entry for entry, _ in entries()]
            sys.stdout.write(f"{name} ({len(names)}): ncogym list {name}\n")
            if len(names) <= NAMED:
                indent: dict[str, Any] = {"initial_indent": "  ", "subsequent_indent": "  "}
                lines = textwrap.fill("  ".join(names), 100, break_long_words=False, break_on_hyphens=False, **indent)
                sys.stdout.write(f"{lines}\n")
        return DONE
    found = list(sections[section]())
    width = max((len(entry) for entry, _ in found), default=0)
    console = make_console()
    for entry, facts in found:
        console.print(f"  {entry:<{width}}  {facts}".rstrip(), markup=False, highlight=False, soft_wrap=True)
    return DONE


def _first_sentence(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")


def _list_envs() -> Iterator[tuple[str, str]]:
    from ncogym.envs import PROBLEMS

    for name, kind in PROBLEMS.items():
        yield name, f"{_first_sentence(kind)} Files: {' '.join(kind.suffixes) or 'none'}"


def _list_sets() -> Iterator[tuple[str, str]]:
    from ncogym.sets import published

    for name, entry in published().items():
        yield name, f"{entry.count} instances: {entry.source}"


def _list_policies() -> Iterator[tuple[str, str]]:
    from ncogym.policies import POLICIES

    for name, kind in POLICIES.items():
        yield name, _first_sentence(kind)


def _list_solvers() -> Iterator[tuple[str, str]]:
    from ncogym.auto import AUTO
    from ncogym.baselines import SOLVERS
    from ncogym.search import SEARCHES

    yield AUTO, "The best search with a policy for the size and the budget."
    for name, kind in (SEARCHES | SOLVERS).items():
        yield name, _first_sentence(getattr(kind, "func", kind))  # a partial is told by what it completes


def _list_pretrained() -> Iterator[tuple[str, str]]:
    from ncogym.pretrained import available, load_card

    for name in available():
        _, card = load_card(name)
        low, high = card["sizes"]
        gaps = [f"{key} {value:.3f} %" for key, value in card.get("validation", {}).items() if key.startswith("gap_")]
        gaps += [f"gap {gap:.3f} % at {size}" for size, gap in card.get("measured", {}).get("gap_percent", {}).items()]
        policy, env = card["policy"], card["env"]["name"]
        facts = [f"{policy['class']}, {policy['parameters']:,} parameters, {env} of sizes {low} to {high}", *gaps]
        yield name, ", ".join(facts)


def _list_configs() -> Iterator[tuple[str, str]]:
    from ncogym._resources import configs_folder

    for path in sorted(configs_folder().rglob("*.yaml")):
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        name = path.relative_to(configs_folder()).with_suffix("").as_posix()
        yield name, f"{path}  {first.lstrip('# ')}" if first.startswith("#") else str(path)
