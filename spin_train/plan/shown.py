"""A plan as text, at most 80 columns wide."""

from spin_train.plan.devices import GIB
from spin_train.plan.plan import Plan
from spin_train.run.tables import duration

__all__ = ["as_text"]

_PART = 31  # columns for a part's name
_NUMBER = 12  # for a number under a stage's name
_MOST = 4  # stages side by side
_ORDER = (
    *("program", "CUDA", "NCCL", "weights", "master", "optimiser states", "gradients"),
    *(
        "activations",
        "logits",
        "the optimiser",
        "cache",
        "prompts",
        "probabilities",
        "free",
        "gaps",
    ),
)
"""Beginnings of the names of parts, from what stays to what comes and goes."""


def as_text(plan: Plan) -> str:
    """Write a plan down: work, memory, disk, then what does not fit and what helps."""
    parts = [_head(plan), _work(plan), _memory(plan), _host(plan), _disk(plan), _verdict(plan)]
    return "\n\n".join(part for part in parts if part)


def _head(plan: Plan) -> str:
    trained = ""
    if plan.trained_parameters < plan.parameters:
        trained = f", {_count(plan.trained_parameters)} of them trained"
    ranks = "1 rank" if plan.ranks == 1 else f"{plan.ranks} ranks"
    each = " for all" if plan.device.kind == "cpu" else " each"
    return "\n".join(
        [
            f"model    {_cut(plan.model)}",
            f"         {_count(plan.parameters)} parameters{trained}",
            f"device   {plan.device.name}, {plan.device.memory / GIB:.1f} GiB{each}, {ranks}",
            f"rows     {plan.train_rows:,} to train on, {plan.held_out_rows:,} held out",
            f"         {_cut(plan.rows)}",
        ]
    )


def _work(plan: Plan) -> str:
    time = f"{'time':>9}" if plan.seconds else ""
    lines = [
        f"{'training':<20}{'examples':>10}{'steps':>9}{'batch':>8}{'micro':>7}{'tokens':>16}{time}"
    ]
    for stage in plan.training:
        lines.append(
            f"{stage.name:<20}{stage.examples:>10,}{stage.steps:>9,}{stage.batch:>8,}"
            f"{stage.accumulation:>7,}{stage.tokens:>16,}{_time(plan, stage.name)}"
        )
    if plan.sampling:
        lines += ["", f"{'sampling':<20}{'samples':>10}{'tokens at most':>40}{time}"]
        for sampled in plan.sampling:
            lines.append(
                f"{sampled.name:<20}{sampled.samples:>10,}{sampled.tokens:>40,}"
                f"{_time(plan, sampled.name)}"
            )
    return "\n".join(lines)


def _time(plan: Plan, stage: str) -> str:
    return f"{duration(plan.seconds[stage]):>9}" if stage in plan.seconds else ""


def _memory(plan: Plan) -> str:
    tables = []
    for start in range(0, len(plan.memory), _MOST):
        stages = plan.memory[start : start + _MOST]
        names = sorted({name for stage in stages for name in stage.parts}, key=_place)
        lines = [
            f"{'memory of one rank, GiB':<{_PART}}"
            + "".join(f"{_column(s.stage):>{_NUMBER}}" for s in stages)
        ]
        for name in names:
            sizes = (stage.parts.get(name) for stage in stages)
            lines.append(f"{name:<{_PART}}" + "".join(f"{_gib(s):>{_NUMBER}}" for s in sizes))
        lines.append(
            f"{'all together':<{_PART}}" + "".join(f"{_gib(s.total):>{_NUMBER}}" for s in stages)
        )
        lines += [f"  {s.stage} is largest in: {s.moment}" for s in stages]
        tables.append("\n".join(lines))
    return "\n\n".join(tables)


def _column(stage: str) -> str:
    """Shorten a stage's name to the width of a column."""
    return stage.removesuffix("/train").replace("/iter", " ") if "control" in stage else stage


def _place(part: str) -> tuple[int, str]:
    """Where a part stands in the table."""
    for place, begin in enumerate(_ORDER):
        if part.startswith(begin):
            return place, part
    return len(_ORDER), part


def _host(plan: Plan) -> str:
    if not plan.host:
        return ""
    return _listed("main memory of a machine, GiB", plan.host)


def _disk(plan: Plan) -> str:
    text = _listed("disk, GiB", plan.disk)
    if plan.disk_free is not None:
        text += f"\n{'free there now':<{_PART}}{_gib(plan.disk_free):>{_NUMBER}}"
    return text


def _listed(title: str, parts: dict[str, int]) -> str:
    rows = {**parts, "all together": sum(parts.values())}
    return "\n".join(
        [title, *(f"{name:<{_PART}}{_gib(size):>{_NUMBER}}" for name, size in rows.items())]
    )


def _verdict(plan: Plan) -> str:
    lines = []
    for problem in plan.problems:
        lines.append(
            f"does not fit: {problem.what} needs {problem.needed / GIB:.1f} GiB, and there are "
            f"{problem.available / GIB:.1f}."
        )
        lines.append("Any of these makes it fit:" if len(problem.keys) > 1 else "This helps:")
        lines += [f"  {key}" for key in problem.keys]
    lines += [f"note: {note}" for note in plan.notes]
    if plan.fits:
        lines.append("It fits. These are predictions; docs/plan.md says how good they are.")
    return "\n".join(lines)


def _gib(size: int | None) -> str:
    if size is None:
        return ""
    return f"{size / GIB:.3f}" if size < GIB else f"{size / GIB:,.1f}"


def _count(number: int) -> str:
    for unit, size in (("billion", 1e9), ("million", 1e6)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:,}"


def _cut(text: str, most: int = 70) -> str:
    return text if len(text) <= most else "..." + text[3 - most :]
