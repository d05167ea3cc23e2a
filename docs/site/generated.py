"""Pages that are written from the program when the site is built: keys, papers, names."""

from pathlib import Path
from typing import Any

from docs.site import reference
from docs.site.reference import public_names

__all__ = ["PAGES", "configuration", "papers", "public_names", "write"]

PAGES = ("reference/configuration", "reference/papers", *reference.PAGES)

# Where a user meets what a paper says: keys of a run, or a command. "*" stands for all else of it.
KEYS: dict[tuple[str, str], str] = {
    ("SPIN", "*"): "`algorithm: spin`, `beta`",
    ("SPIN", "Assumption 5.1"): "`loss_type`",
    ("SPIN", "official runs"): "`mixing: 1`",
    ("SPIN", "section 6"): "`control: true`",
    ("SPIN", "6.3"): "`iterations`, `epochs`, `data.rows`",
    ("DPO", "*"): "`generation.engine: given`, `iterations: 1`",
    ("T-SPIN", "*"): "`algorithm: tspin`, `beta`",
    ("T-SPIN", "history"): "`history_weight`",
    ("T-SPIN", "aim"): "`algorithm: tspin`; `tspin_ref` keeps the reference",
    ("T-SPIN", "experiments"): "`data.rows`",
    ("Alami et al.", "geometric mixture"): "`spin-theory play --opponent geometric`",
    ("Alami et al.", "fictitious play"): "`spin-theory play --opponent average`",
    ("SPACE", "*"): "`algorithm: space`, `space_mu`",
    ("GSIL", "*"): "`algorithm: gsil`, `loss_type`",
    ("GSIL", "released runs"): "`beta`, `gsil_shift`",
    ("SAPO", "*"): "`spin-theory play --opponent moving`",
    ("IRIS", "*"): "not trained here",
}

# What each paper trains with. Responses: y real, y' generated, y_0 proto. r and r' are the
# log-ratios of policy and opponent at y and y'.
FORMULAS: dict[str, str] = {
    "SPIN": r"\ell\left( \lambda \log \frac{p_\theta(y)}{p_t(y)} - \lambda \log "
    r"\frac{p_\theta(y')}{p_t(y')} \right)",
    "DPO": r"-\log \sigma\left( \beta \log \frac{p_\theta(y)}{p_{ref}(y)} - \beta \log "
    r"\frac{p_\theta(y')}{p_{ref}(y')} \right)",
    "T-SPIN": r"\ell\left( \alpha \log \frac{p_\theta(y)}{p_\theta(y')} \right) + w \, "
    r"\ell\left( \alpha \log \frac{p_\theta(y')}{p_\theta(y_0)} \right)",
    "Alami et al.": r"\text{opponents} \quad p_t^{1 - w} p_0^w / Z \quad \text{or} \quad "
    r"\frac{1}{t + 1} \sum_{s = 0}^{t} p_s",
    "SPACE": r"-\log \sigma(r - \log \mu) - \mu \log \sigma(\log \mu - r')",
    "GSIL": r"-\log \sigma(a r + b) - \log \sigma(-a r' - b) \quad \text{(Bernoulli)}",
    "SAPO": r"\text{opponent, for tables} \quad q_t = q_{t - 1}^d \, p_t^{1 - d} / Z",
    "IRIS": r"\frac{1}{a} \log E_{p_t} e^{a r} - \frac{1}{a - 1} \log E_{p_{data}} e^{(a - 1) r}",
}

# Pages of docs/ that teach what a statement is about.
LESSONS: dict[tuple[str, str], str] = {
    ("SPIN", "Theorem 5.2"): "theorem-5-2",
    ("SPIN", "Theorem 5.4"): "theorem-5-4",
    ("SPIN", "Remark 5.5"): "inexact-play",
    ("SPIN", "section 5"): "multiplier",
    ("T-SPIN", "aim"): "t-spin",
    ("T-SPIN", "history"): "t-spin",
}

# What `spin_train.config.keys` says of each, for someone who resumes a run.
_MAY_CHANGE = {
    "START": "until the first stage is complete",
    "TRAINING": "until something is trained, SFT included",
    "PLAY": "until the first stage is complete; a branch at iteration 0 may change it",
    "LOSS": "until something is trained; a branch at iteration 0 may change it",
    "CONTROL": "until the first stage is complete; a branch may change it",
    "NOTHING": "at any time: results do not depend on it",
}


def write(source: Path) -> None:
    """Write all of them into the site's source."""
    reference.write(source)
    (source / "reference" / "configuration.md").write_text(configuration())
    (source / "reference" / "papers.md").write_text(papers())


def configuration() -> str:
    """Write the page of configuration keys from the schema."""
    from spin_train.config.files import known_keys, section_of
    from spin_train.config.keys import FirstRead

    sections: dict[str, list[str]] = {"": []}
    said: dict[str, str] = {}
    for key, field in known_keys().items():
        if section_of(field) is not None:
            sections[key] = []
            said[key] = _prose(field.description or (section_of(field).__doc__ or ""))
            continue
        parent = key.rpartition(".")[0]
        first = next((meta for meta in field.metadata if isinstance(meta, FirstRead)), None)
        sections[parent].append(_entry(key, field, first))
    lines = [
        "# Configuration: every key of a run",
        "",
        "This page is written from the schema, as `spin-train keys` prints it. Each key is written",
        "in the YAML file, or as `key=value` on the command line. How a run is put together is in",
        "[running](../running.md).",
        "",
        "A key may change on resuming until something depends on it:",
        "",
        "| first read by | may change |",
        "|---|---|",
        *(f"| {read.value} | {_MAY_CHANGE[read.name]} |" for read in FirstRead),
        "",
    ]
    for section, entries in sections.items():
        lines += [f"## {f'`{section}`' if section else 'Top level'}", "", said.get(section, ""), ""]
        lines += entries
    return "\n".join(lines) + "\n"


def _entry(key: str, field: Any, first: Any) -> str:
    from spin_train.config.files import allowed_values

    default = "required" if field.is_required() else f"default `{_value(field.default)}`"
    values = allowed_values(field.annotation).strip(" ()")
    allowed = f" One of {', '.join(f'`{v}`' for v in values.split(', '))}." if values else ""
    read = f" First read by: {first.value}." if first else ""
    text = _prose(field.description or "")
    return f"### `{key}`\n\n{default}.{allowed}{read}\n\n{text}\n"


def _value(value: Any) -> str:
    """Write a default as YAML does."""
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _prose(text: str) -> str:
    return " ".join(text.split()).replace("$", "\\$")


def papers() -> str:
    """Write the index of what papers claim: formula, key, check and verdict."""
    from spin_theory.claims.papers import PAPER_CLAIMS
    from spin_theory.claims.rows import as_markdown
    from spin_theory.claims.table import CLAIMS, named

    checks_of = {case: claim.function for claim in CLAIMS for case in claim.cases}
    lines = [
        "# Papers: what each claims, and what became of it",
        "",
        "Every statement with the keys of a run that it is about, the checks that show it, and the",
        "verdict on tables. A network shares parameters and is not solved exactly, so a verdict is",
        "not one on the authors' experiments. [Theory](../theory.md#what-the-papers-claim) says",
        "where formulas come from. `spin-theory verify --claims NAME` runs a check.",
        "",
        "Above each table stands what the paper trains with. The response y is real, y' generated,",
        "and T-SPIN has a proto response too. r and r' are the log-ratios of policy and opponent",
        "at y and y'.",
        "",
    ]
    for paper in dict.fromkeys(claim.paper for claim in PAPER_CLAIMS):
        rows = [("where", "what it says", "configuration", "checks", "verdict")]
        for claim in (claim for claim in PAPER_CLAIMS if claim.paper == paper):
            keys = KEYS.get((paper, claim.where)) or KEYS[paper, "*"]
            commands = [name for name in claim.shown_by if name.startswith("python -m ")]
            names = [name for name in claim.shown_by if name not in commands]
            functions = dict.fromkeys(checks_of[case] for case in named(names) if names)
            checks = [
                f"{{py:obj}}`{check.__name__} <{check.__module__}.{check.__name__}>`"
                for check in functions
            ]
            shown = ", ".join([*checks, *(f"`{command}`" for command in commands)])
            lesson = LESSONS.get((paper, claim.where))
            where = f"[{claim.where}](../{lesson}.md)" if lesson else claim.where
            rows.append((where, claim.statement, keys, shown, claim.verdict))
        lines += [f"## {paper}", "", f"$${FORMULAS[paper]}$$", "", as_markdown(rows), ""]
    return "\n".join(lines)
