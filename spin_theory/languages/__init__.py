"""Small conditional languages whose p_data(y|x) is known: sample, score, enumerate.

Prompts and responses are strings of one-character symbols; there is no tokenizer here. Every
language is a :class:`Language`: a frozen dataclass with its methods, and nothing else.

===============  ==================================================================================
``language``     what each of them can do, and what those have in common that go piece by piece
``noisy_sort``   the prompt's symbols in a Plackett-Luce order
``markov``       a Markov chain whose few transitions depend on the prompt
``grammar``      sentences whose verbs agree with their subjects, clauses in between
``arithmetic``   sums in a template, with wrong digits
===============  ==================================================================================
"""

from spin_theory.languages.arithmetic import NoisyArithmetic
from spin_theory.languages.grammar import Agreement
from spin_theory.languages.language import MAX_ENUMERATED, Language
from spin_theory.languages.markov import MarkovChain
from spin_theory.languages.noisy_sort import NoisySort

__all__ = [
    "MAX_ENUMERATED",
    "Agreement",
    "Language",
    "MarkovChain",
    "NoisyArithmetic",
    "NoisySort",
]
