"""Rows with labels to pairs: a wanted response and an unwanted one to the same prompt."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from spin_train.data.formats import SftRow
from spin_train.data.splitting import digest, prompt_text

__all__ = ["labelled_pairs"]


def labelled_pairs(rows: Iterator[SftRow], counts: Counter[str]) -> Iterator[SftRow]:
    """Pair rows whose label is true with rows of the same prompt whose label is false.

    Rows without a label pass through. The first of one kind meets the first of the other, and so
    on; where there are fewer of one kind they are used again, so that every response is in a pair.
    A pair weighs the product of its rows. Rows whose prompt has no row of the other kind are
    counted as ``dropped_unpaired``. Rows with labels are kept in memory until all are read.
    """
    found: dict[bytes, dict[bool, list[SftRow]]] = {}
    for row in rows:
        if row.label is None:
            yield row
        else:
            kinds = found.setdefault(digest(prompt_text(row)), {True: [], False: []})
            kinds[row.label].append(row)
    for kinds in found.values():
        wanted, unwanted = kinds[True], kinds[False]
        if not wanted or not unwanted:
            counts["dropped_unpaired"] += len(wanted) + len(unwanted)
            continue
        for place in range(max(len(wanted), len(unwanted))):
            real, other = wanted[place % len(wanted)], unwanted[place % len(unwanted)]
            yield replace(
                real,
                given=other.response,
                given_fields=other.fields,
                weight=real.weight * other.weight,
            )
