"""Measure again what docs/results.md tells, and write it there: `make results`, or some of its parts by name.

    python experiments/results.py [NAME ...] [--output out/results] [--page docs/results.md]

Each part stands between two comments of the page, ``<!-- results: NAME -->`` and ``<!-- end -->``, and is the table
that ``ncogym evaluate --config results/NAME`` writes, with its command, commit, seed, machine and versions; one more
solver is one more line of configs/evaluate/NAME.yaml. Algorithms and populations are trained before they are compared,
by scripts of their own (`SCRIPTS`). A part whose config asks for a device that is not here is left as it stands, with
the commit of the run that made it. A part that was interrupted goes on where it ended.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import yaml

CONFIGS = Path(__file__).parents[1] / "configs" / "evaluate"
PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
PART = re.compile(r"<!-- results: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
SCRIPTS = {  # parts that are more than one study
    name: Path(__file__).parent / f"{name.replace('-', '_')}.py"
    for name in ("algorithms", "populations", "population-cost")
}
POLICIES = {"generalisation": ("uniform", "clustered", "explosion")}  # distributions that policies are trained on first


def ncogym(*words: object) -> None:
    """Run a command and show what it prints; what it does not survive ends all."""
    print("+ ncogym", *words, flush=True)
    subprocess.run([sys.executable, "-m", "ncogym.cli", *map(str, words)], check=True)


def train(kind: str, folder: Path) -> None:
    """Train a small policy on one distribution, unless it is there."""
    if not (folder / "policy").exists():
        resume = ("--resume", "true") if (folder / "last.ckpt").exists() else ()
        ncogym("train", "--config", "tsp20-small", "--env.distribution", kind, "--output", folder, *resume)


def measured(name: str, output: Path) -> str | None:
    """Run the study, or the script, of one part and return its text, or None where its device is not here."""
    if name in SCRIPTS:
        subprocess.run([sys.executable, str(SCRIPTS[name]), "--output", str(output / name)], check=True)
        for picture in (output / name).glob("*.png"):
            PICTURES.mkdir(exist_ok=True)
            shutil.copy(picture, PICTURES / f"{name}-{picture.name}")
        return (output / name / "table.md").read_text()
    told = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    if str(told.get("device", "cpu")).startswith("cuda") and not torch.cuda.is_available():
        return None
    for kind in POLICIES.get(name, ()):
        train(kind, output / "policies" / kind)
    ncogym("evaluate", "--config", f"results/{name}", "--output", output / name)
    return (output / name / "table.md").read_text()


def replaced(page: str, name: str, text: str) -> str:
    """Return the page with another text in one part."""
    mark, end = f"<!-- results: {name} -->\n", "<!-- end -->"
    before, _, rest = page.partition(mark)
    return f"{before}{mark}{text}{end}{rest.partition(end)[2]}"


def main() -> None:
    """Measure the parts one after the other, and write each into the page as soon as it is done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="parts; all that the page has where none is named")
    parser.add_argument("--output", type=Path, default=Path("out/results"))
    parser.add_argument("--page", type=Path, default=Path("docs/results.md"))
    given = parser.parse_args()
    parts = [name for name, _ in PART.findall(given.page.read_text())]
    known = {*SCRIPTS, *(path.stem for path in CONFIGS.glob("*.yaml"))}
    unknown = sorted({*given.names, *parts} - {*parts} | {*parts} - known)
    if unknown:
        parser.error(f"{', '.join(unknown)}: not both in {given.page} and in {CONFIGS}")
    for name in given.names or parts:
        begin = time.monotonic()
        text = measured(name, given.output)
        if text is None:
            print(f"{name}: kept as it stands, its device is not here", flush=True)
            continue
        given.page.write_text(replaced(given.page.read_text(), name, text))
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


if __name__ == "__main__":
    main()
