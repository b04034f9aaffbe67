"""What an evaluation says in tables and notes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ncogym.evaluation import SOLVED_PERCENT, Evaluation, Summary
from ncogym.page import NOT_KNOWN, Chapter, Column, Grid, number

# columns that a terminal shows if it has room, in this order; it always shows the others
MORE = ("worst gap %", "solved", "primal integral %", "proven", "rollouts")

LESS = ("mean objective", "in all")  # come first of these where solvers are compared with one of them

INTERVAL = "95 % interval of the mean (Student's t, widened for skewness)"

FEW = 32  # instances, below which an interval covers visibly less than it says

COVERAGE = "docs/decisions/intervals.md"  # which has the measurements


def notes(evaluation: Evaluation, origin: bool = True) -> list[str]:
    """Return what a reader of the table must know beside its numbers, a sentence each.

    Args:
        evaluation: what the table is of.
        origin: whether to tell of the sessions, which those who see the table grow know.
    """
    instances, references = evaluation.instances, evaluation.references
    kind = "" if instances.distribution is None else f", {instances.distribution}"
    said = [
        f"{evaluation.env}: {instances.name}, {instances.count} of size {_span(instances.sizes)}{kind}, "
        f"seed {evaluation.seed}, SHA-256 {instances.sha256[:16]}"
    ]
    said.append(f"budget: {budget_words(evaluation.budget)}")
    if references is not None:
        known = int((~references.objective.isnan()).sum())
        told = f"known for {known} of {instances.count}, " if known < instances.count else ""
        proven = sum(references.proven)
        said.append(
            f"gap to {references.name} ({told}{proven} proven optimal), 0 is as good and negative is better; {INTERVAL}"
        )
    if evaluation.versus is not None:
        said.append(
            f"against {evaluation.versus}: mean gap to its solution of the same instance, 95 % interval likewise"
        )
    if 1 < instances.count < FEW and (references is not None or evaluation.versus is not None):
        said.append(
            f"{instances.count} instances are few: where gaps are skewed, as they mostly are, their intervals hold the "
            f"true mean less often than 95 times in 100 ({COVERAGE})"
        )
    once = [name for name in evaluation.solvers if name in evaluation.reported_once]
    if references is not None and once and len(once) < len(evaluation.solvers):
        said.append(f"primal integral {NOT_KNOWN}: told one solution an instance, when it ended: {', '.join(once)}")
    able = {record.solver for record in evaluation.records if record.feasible is not None}
    called = [f"{name} {seconds:.3g} s" for name, seconds in evaluation.warm_up_seconds.items() if name in able]
    if called:
        said.append(f"first call, not counted: {', '.join(called)}")
    said += _made_with(evaluation.sessions)
    said += [_session(session) for session in evaluation.sessions if session and origin]
    unable = {record.solver: record.violation for record in evaluation.records if record.feasible is None}
    said += [f"{NOT_KNOWN}: {reason}" for reason in unable.values()]
    if any(record.feasible is False for record in evaluation.records):
        said.append("the means leave out instances without a feasible solution")
    return said + _beaten(evaluation) + (["interrupted: only what was done is counted"] * evaluation.interrupted)


def _beaten(evaluation: Evaluation) -> list[str]:
    """Say which references were beaten, and loudly so where they or the solvers must be wrong about an optimum."""
    compared = [record for record in evaluation.records if record.gap_percent is not None]
    better = [r for r in compared if r.gap_percent is not None and r.gap_percent < -SOLVED_PERCENT]
    counts = [(name, sum(record.solver == name for record in better)) for name in evaluation.solvers]
    said = ["better than their reference: " + ", ".join(f"{count} of {name}" for name, count in counts if count)]
    proven = evaluation.references.proven if evaluation.references is not None else ()
    wrong = [record for record in better if proven[record.instance]]
    worse = [r for r in compared if r.proven and r.gap_percent is not None and r.gap_percent > SOLVED_PERCENT]
    doubt = "one of the two is wrong, or of another problem"
    if wrong:
        first = wrong[0]
        said.append(
            f"WRONG: {len(wrong)} are better than a reference that {evaluation.reference} has as proven optimal, such "
            f"as {first.objective:.10g} by {first.solver} on instance {first.instance} "
            f"({evaluation.instances.names[first.instance]}), where {first.reference:.10g} is said to be optimal; "
            f"{doubt}"
        )
    if worse:
        first = worse[0]
        said.append(
            f"WRONG: {len(worse)} are proven optimal by their solver and worse than the reference, such as "
            f"{first.objective:.10g} by {first.solver} on instance {first.instance} "
            f"({evaluation.instances.names[first.instance]}), where {evaluation.reference} has {first.reference:.10g}; "
            f"{doubt}"
        )
    return said if better else said[1:]


def _made_with(sessions: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name the weights that were used, with their fingerprints, and what other solvers were told."""
    policies = {name: policy for session in sessions for name, policy in _policies(session).items()}
    settings = {name: told for session in sessions for name, told in (session.get("settings") or {}).items()}
    weights = dict.fromkeys(f"{p['name']} {p['sha256']}" for p in policies.values() if "sha256" in p)
    return [
        *([f"weights: {', '.join(weights)}"] if weights else []),
        *([f"settings: {'; '.join(f'{name}: {told}' for name, told in settings.items())}"] if settings else []),
    ]


def _session(session: Mapping[str, Any]) -> str:
    """Tell where, when and with what numbers were made."""
    threads = session.get("threads")
    versions = " ".join(f"{name} {version}" for name, version in (session.get("versions") or {}).items())
    parts = (
        f"run of {session['started']}" if session.get("started") else "run",
        f"on {session['machine']}" if session.get("machine") else None,
        f"device {session['device']}" if session.get("device") else None,
        f"{threads} thread{'s' * (threads != 1)}" if threads else None,
        f"commit {session['commit']}" if session.get("commit") else None,
        versions or None,
    )
    command = f": {session['command']}" if session.get("command") else ""
    return ", ".join(part for part in parts if part) + command


def columns_of(evaluation: Evaluation, summaries: Sequence[Summary]) -> list[Column]:
    """Return the main table; columns that would tell nothing are left out."""
    by_gap = any(summary.mean_gap_percent is not None for summary in summaries)
    columns = [Column("solver", [s.solver for s in summaries], [s.solver for s in summaries])]

    def add(title: str, values: Sequence[float | None], text: Callable[[Any], str], **more: Any) -> None:
        texts = [NOT_KNOWN if value is None else text(value) for value in values]
        columns.append(Column(title, texts, values, **more))

    def add_mean(title: str, values: Sequence[float | None], bounds: Sequence[list[float] | None], best: Any) -> None:
        add(title, values, lambda value: number(value, 3), best=best)
        texts = [NOT_KNOWN if each is None else f"[{each[0]:z,.3f}, {each[1]:z,.3f}]" for each in bounds]
        whiskers = [
            None if each is None or value is None else [each[0], value, each[1]]
            for each, value in zip(bounds, values, strict=True)
        ]
        lows = [None if each is None else each[0] for each in bounds]
        columns.append(Column("95 % interval", texts, lows, whiskers))

    objectives, gaps = [s.mean_objective for s in summaries], [s.mean_gap_percent for s in summaries]
    best = _best(summaries, gaps if by_gap else objectives, "min" if by_gap else evaluation.sense)
    add("mean objective", objectives, lambda value: number(value, 4), best=() if by_gap else best)
    if by_gap or evaluation.reference is not None:
        add_mean("gap %", gaps, [s.ci95_gap_percent for s in summaries], best if by_gap else ())
    if evaluation.versus is not None:
        differences = [s.mean_difference_percent for s in summaries]
        add_mean(f"against {evaluation.versus} %", differences, [s.ci95_difference_percent for s in summaries], ())
        columns[-1] = columns[-1]._replace(title="its 95 % interval")
    if by_gap:
        add("worst gap %", [s.worst_gap_percent for s in summaries], lambda value: number(value, 3))
        add("solved", [s.solved for s in summaries], "{:.1%}".format)
    if any(s.proven for s in summaries):
        add("proven", [s.proven for s in summaries], "{:.1%}".format)
    columns.append(Column("feasible", list(map(_share, summaries)), [s.feasible for s in summaries]))
    if any(s.primal_integral_percent is not None for s in summaries):
        add("primal integral %", [s.primal_integral_percent for s in summaries], lambda value: number(value, 3))
    add("rollouts", [s.rollouts_per_instance for s in summaries], lambda value: number(value, 0 if value >= 100 else 1))
    add("seconds each", [s.seconds_per_instance for s in summaries], lambda value: number(value, 4))
    add("in all", [s.seconds_total for s in summaries], lambda value: number(value, 1))
    return columns


def _best(summaries: Sequence[Summary], values: Sequence[float | None], sense: str) -> list[int]:
    """Return the numbers of the best values, to what is shown of them, among those who solved the most instances."""
    most = max((summary.feasible or 0.0 for summary in summaries), default=0.0)
    known = {
        at: value
        for at, (summary, value) in enumerate(zip(summaries, values, strict=True))
        if value is not None and summary.feasible == most
    }
    top = (min if sense == "min" else max)(known.values(), default=None)
    return [at for at, value in known.items() if number(value, 3) == number(top, 3)]


def _share(summary: Summary) -> str:
    if summary.feasible is None:
        return NOT_KNOWN
    return f"{round(summary.feasible * summary.instances)}/{summary.instances}"


def means_of(title: str, parts: Mapping[str, tuple[Evaluation, Sequence[Summary]]], solvers: Sequence[str]) -> Grid:
    """Return a table of mean gaps, or of mean objectives where no gap is known: a row a solver, a column a part."""
    every = [summary for _, summaries in parts.values() for summary in summaries]
    field = "mean_gap_percent" if any(s.mean_gap_percent is not None for s in every) else "mean_objective"
    rows, best = [[name] for name in solvers], set()
    for column, (evaluation, summaries) in enumerate(parts.values(), 1):
        values = [getattr(summary, field) for summary in summaries]
        at = {summary.solver: solvers.index(summary.solver) for summary in summaries}
        sense = "min" if field == "mean_gap_percent" else evaluation.sense
        best |= {(at[summaries[row].solver], column) for row in _best(summaries, values, sense)}
        for row in rows:
            row.append(NOT_KNOWN)
        for summary, value in zip(summaries, values, strict=True):
            rows[at[summary.solver]][column] = number(value, 3)
    what = "mean gap %" if field == "mean_gap_percent" else "mean objective"
    return Grid(f"{title}: {what}", ["solver", *parts], rows, best)


def matrices_of(chapters: Sequence[Chapter]) -> list[Grid]:
    """Return for each budget that several sets were solved under a table of solvers by sets."""
    grids = []
    for budget in dict.fromkeys(chapter.budget for chapter in chapters):
        under = [chapter for chapter in chapters if chapter.budget == budget]
        evaluations = [chapter.evaluation for chapter in under]
        if len({evaluation.instances.name for evaluation in evaluations}) > 1:
            solvers = list(dict.fromkeys(name for evaluation in evaluations for name in evaluation.solvers))
            parts = {_set(chapter.evaluation): (chapter.evaluation, chapter.summaries) for chapter in under}
            grid = means_of(f"All sets, {budget}", parts, solvers)
            grids.append(_trained(grid, [evaluation for evaluation, _ in parts.values()]))
    return grids


def _set(evaluation: Evaluation) -> str:
    instances = evaluation.instances
    words = (_span(instances.sizes), instances.distribution)
    return f"{instances.name} ({', '.join(word for word in words if word is not None)})"


def _trained(grid: Grid, evaluations: Sequence[Evaluation]) -> Grid:
    """Add what the solvers' policies were trained on, and mark sets that were not like it."""
    policies = [{n: p for session in each.sessions for n, p in _policies(session).items()} for each in evaluations]
    if not any(policies):
        return grid
    header, rows = [grid.header[0], "trained on", *grid.header[1:]], []
    for name, *cells in grid.rows:
        own = [each.get(name) for each in policies]
        words = dict.fromkeys(_trained_on(policy) for policy in own if policy is not None)
        cells = [
            cell + "*" * (cell != NOT_KNOWN and policy is not None and _is_foreign(policy, evaluation))
            for cell, policy, evaluation in zip(cells, own, evaluations, strict=True)
        ]
        rows.append([name, "; ".join(words) or NOT_KNOWN, *cells])
    best = {(row, column + 1) for row, column in grid.best}
    note = "* the policy was trained on other sizes or another distribution"
    return Grid(grid.title, header, rows, best, note if any("*" in cell for row in rows for cell in row[2:]) else "")


def _trained_on(policy: Mapping[str, Any]) -> str:
    """Return the sizes and the distribution that a policy was trained on, in words."""
    kind = policy["env"].get("distribution")
    return ", ".join([_span(policy["sizes"]), *([] if kind is None else [kind])])


def _policies(session: Mapping[str, Any]) -> Mapping[str, Any]:
    return session.get("policies") or {}


def _is_foreign(policy: Mapping[str, Any], evaluation: Evaluation) -> bool:
    """Return whether a set has sizes or a distribution that a policy was not trained on."""
    instances, (low, high), kind = evaluation.instances, policy["sizes"], policy["env"].get("distribution")
    if min(instances.sizes) < low or max(instances.sizes) > high:
        return True
    known = kind is not None and instances.distribution is not None
    return known and kind != instances.distribution and not kind.startswith("mixed")


def grids_of(chapter: Chapter) -> list[Grid]:
    """Return the main table of a chapter and what belongs to it."""
    columns = chapter.columns
    rows = [list(row) for row in zip(*(column.texts for column in columns), strict=True)]
    best = {(row, at) for at, column in enumerate(columns) for row in column.best}
    title = f"{chapter.evaluation.instances.name}, {chapter.budget}"
    main = Grid(title, [column.title for column in columns], rows, best)
    return [main] if chapter.sizes is None else [main, chapter.sizes]


def _span(sizes: Iterable[int]) -> str:
    low, high = min(sizes := list(sizes)), max(sizes)
    return f"{low}" if low == high else f"{low} to {high}"


def budget_words(budget: Mapping[str, float]) -> str:
    """Say what each instance may cost."""
    units = {"seconds": "{:g} s", "rollouts": "{:,.0f} rollouts", "patience": "{:,.0f} rollouts without improvement"}
    limits = [unit.format(budget[name]) for name, unit in units.items() if name in budget]
    return f"{' or '.join(limits)} each" if limits else "no limit"
