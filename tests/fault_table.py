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
    "games.inexact:inexact_multiplier": {
        "of the exact iteration": lambda right: (
            lambda mu, *, steps, **rules: right(
                mu, steps=10**6 if steps else steps, **(rules | {"learning_rate": 1e-2})
            )
        ),
        "one step more": lambda right: (
            lambda mu, *, steps, **rules: right(mu, steps=steps and steps + 1, **rules)
        ),
        "without momentum": lambda right: (
            lambda mu, **rules: right(mu, **(rules | {"momentum": 0}))
        ),
    },
    "games.opponents:tempered_samples": {
        "hot for cold": lambda right: (
            lambda policies, *, temperature: right(policies, temperature=1 / temperature)
        ),
    },
    "games.temperature:tempered_limit": {
        "the data": lambda right: lambda data, **_: data,
    },
    "games.temperature:tempered_multiplier": {
        "of temperature 1": lambda right: lambda **rules: right(**(rules | {"temperature": 1.0})),
    },
}
