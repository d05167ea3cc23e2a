"""Mistakes that a person would make in one function of spin_theory: see `tests/faults.py`.

Each is a function of the right function and gives the wrong one. The names are those that
`tests.faults.public_functions` gives, without `spin_theory.`.
"""

FAULTS = {
    "divergences:kl": {"the other way round": lambda right: lambda p, q: right(q, p)},
    "divergences:renyi": {
        "the other way round": lambda right: lambda p, q, *, order: right(q, p, order=order),
        "of the inverse order": lambda right: lambda p, q, *, order: right(p, q, order=1 / order),
    },
}
