"""What the papers claim, whether it holds, and the claim of ours that shows it."""

from dataclasses import dataclass

__all__ = ["PAPER_CLAIMS", "PaperClaim"]

FINITE_GAME = "python -m benchmarks.finite_game"


@dataclass(frozen=True)
class PaperClaim:
    """One statement of a paper and our verdict on it, on tables.

    Attributes
    ----------
    paper : str
        Short name of the paper.
    where : str
        Theorem, equation or section.
    statement : str
        What the paper says, in our words.
    verdict : str
        Begins with 'holds', 'holds under' or 'does not hold', and then says why.
    shown_by : tuple of str
        Patterns of names that `spin-theory verify --claims` takes, or a command.
    """

    paper: str
    where: str
    statement: str
    verdict: str
    shown_by: tuple[str, ...]


PAPER_CLAIMS: tuple[PaperClaim, ...] = (
    PaperClaim(
        "SPIN",
        "eq. (4.4)",
        "The opponent's best response to the advantages f is `p_t e^(f / beta)`, normalised.",
        "holds",
        ("SPIN (4.4) opponent's update",),
    ),
    PaperClaim(
        "SPIN",
        "Theorem 5.2",
        "Where `p_t = p_data`, the opponent is a global minimum at every beta.",
        "holds",
        ("5.2 sufficiency, *",),
    ),
    PaperClaim(
        "SPIN",
        "Theorem 5.2",
        "Where `p_t` differs from `p_data`, there is a beta at which it is not a minimum.",
        "holds; in a table and in a log-linear class with `p_data` it is no minimum at any beta",
        ("5.2 necessity, *", "5.2 witness interval, *", "5.2 log-linear class"),
    ),
    PaperClaim(
        "SPIN",
        "Theorem 5.2",
        "So self-play can only rest at the data.",
        "holds under: `p_data` is in the class, and beta is small where parameters are quantised. "
        "In a class without `p_data` SPIN rests where SFT does",
        ("5.2 quantised class", "SPIN rests where SFT does"),
    ),
    PaperClaim(
        "SPIN",
        "Lemma C.2",
        "The least value of the logistic objective is `log 2 - JS(P, Q)`.",
        "holds",
        ("least value, logistic",),
    ),
    PaperClaim(
        "SPIN",
        "Theorem 5.4",
        "The minimiser is `p_t (p_data / p_t)^(1 / beta)`, normalised.",
        "holds under: logistic penalty and, on infinitely many responses, a finite Renyi "
        "divergence of order `1 / beta`",
        ("5.4 closed form, logistic", "where the update exists"),
    ),
    PaperClaim(
        "SPIN",
        "Remark 5.5",
        "The next policy is more likely exactly where `p_data` is above `p_t`.",
        "does not hold unless beta is 1; with the Renyi divergence in place of 0 it does",
        ("Remark 5.5, corrected",),
    ),
    PaperClaim(
        "SPIN",
        "Remark 5.5",
        "A smaller beta changes the opponent more.",
        "holds under: exact iterations. With steps of one learning rate a larger beta moves more, "
        "and may be unstable",
        ("Remark 5.5, corrected", "inexact play near the data, *"),
    ),
    PaperClaim(
        "SPIN",
        "section 5",
        "Self-play converges to the data.",
        "holds under: exact iterations with beta above 1/2 (exponential: above 1/4), at any "
        "distance. Below that the game leaves the data, unless iterations are inexact or have "
        "an SFT term",
        (
            "Hilbert's metric, *",
            "iterates, *",
            "inexact play near the data, *",
            "multiplier with an SFT term, *",
        ),
    ),
    PaperClaim(
        "SPIN",
        "Assumption 5.1",
        "Any convex decreasing penalty will do.",
        "holds under: Theorem 5.2 alone. The correlation objective has no minimum, and the exact "
        "hinge game does not settle at the data",
        ("unbounded, correlation", "hinge does not settle at the data"),
    ),
    PaperClaim(
        "SPIN",
        "official runs",
        "Samples of the last two iterations are mixed.",
        "holds under: beta above 1/2, where the data are stable. The rate is `1 / sqrt(2 beta)`",
        ("mixed samples near the data",),
    ),
    PaperClaim(
        "SPIN",
        "section 6",
        "SPIN gains over continued SFT.",
        "does not hold on tables: the first step is SFT's, and on rows the control is nearer to "
        "the data",
        ("first step is SFT, *", FINITE_GAME),
    ),
    PaperClaim(
        "SPIN",
        "6.3",
        "Iterations reach what more epochs on one opponent do not.",
        "holds",
        (FINITE_GAME,),
    ),
    PaperClaim(
        "SPIN",
        "6.3",
        "Longer training on one opponent does no harm.",
        "does not hold at beta 0.1: the distance rises again",
        (FINITE_GAME,),
    ),
    PaperClaim(
        "SPIN",
        "6.3",
        "More rows give a better policy.",
        "holds, for SPIN and for SFT",
        (FINITE_GAME,),
    ),
    PaperClaim(
        "SPIN",
        "6.3",
        "More SFT epochs no longer help.",
        "does not hold: four times the epochs halve SFT's distance",
        (FINITE_GAME,),
    ),
    PaperClaim(
        "DPO",
        "population loss",
        "SPIN's loss is DPO's, with pairs of a real and a generated response.",
        "holds: the preferences are a Bradley-Terry model's with reward `log(p_data / p_t)`",
        ("SPIN is DPO's population loss",),
    ),
    PaperClaim(
        "T-SPIN",
        "Proposition 1",
        "The policy with the largest confidence plus entropy is `e^(c / beta)`, normalised.",
        "holds",
        ("T-SPIN Proposition 1",),
    ),
    PaperClaim(
        "T-SPIN",
        "Theorem 1",
        "The gradient is the sum over triplets of eq. (7).",
        "holds",
        ("T-SPIN Theorem 1, *",),
    ),
    PaperClaim(
        "T-SPIN",
        "motivation",
        "SPIN's objective degenerates to a constant where generated responses equal real ones.",
        "holds under: equal strings, or the correlation penalty. Where the distributions are "
        "equal, logistic and exponential keep the data as their only minimum",
        ("at p_t = p_data, *",),
    ),
    PaperClaim(
        "T-SPIN",
        "aim",
        "Without a reference self-play still leads to the data.",
        "does not hold: without history it rests at `p_data^(1 / (1 + beta))`, and at the "
        "published beta of 1 it goes round in two",
        ("T-SPIN fixed point, no history", "T-SPIN update, *"),
    ),
    PaperClaim(
        "T-SPIN",
        "history",
        "Historical advantages make the game stable.",
        "holds under: starts near its fixed point, which is not the data. Far starts may end in a "
        "cycle",
        ("T-SPIN fixed point, history 0.1", "T-SPIN has two basins"),
    ),
    PaperClaim(
        "T-SPIN",
        "experiments",
        "It reaches the level of full SFT with 25 % of the samples.",
        "does not hold on tables: with 200 rows it is further from the data than SFT with 800",
        (FINITE_GAME,),
    ),
    PaperClaim(
        "Alami et al.",
        "geometric mixture",
        "An opponent mixed with `p_0` regularises self-play.",
        "holds under: a multiplier `(1 - 1 / beta) (1 - w)` between -1 and 1. The limit is not "
        "the data",
        ("geometric mixture",),
    ),
    PaperClaim(
        "Alami et al.",
        "fictitious play",
        "Playing against the average of the past is stable.",
        "holds at every beta, at a rate of `t^(-1 / beta)`",
        ("fictitious play near the data",),
    ),
    PaperClaim(
        "SPACE",
        "theorem",
        "The optimum of its objective is the data, at every mu.",
        "holds, where log-ratios have no scale; the formula is from summaries of the paper",
        ("optimum of SPACE and GSIL", "losses of SPACE and GSIL"),
    ),
    PaperClaim(
        "SPACE",
        "abstract",
        "It converges more stably than methods based on a gap, such as SPIN.",
        "holds under: SPIN at another beta than 1. An exact iteration lands on the data, as that "
        "of SPIN at beta 1 does",
        ("games of SPACE and GSIL", "optimum of SPACE and GSIL"),
    ),
    PaperClaim(
        "GSIL",
        "section 4",
        "Its losses estimate the ratio of the data to the opponent, so that the policy imitates "
        "the data.",
        "holds under: scale 1, no shift and any loss but hinge",
        ("optimum of SPACE and GSIL",),
    ),
    PaperClaim(
        "GSIL",
        "released runs",
        "Scale 0.01 and shift 2.",
        "does not hold: with these the data are not even a minimum of their own game",
        ("games of SPACE and GSIL",),
    ),
    PaperClaim(
        "SAPO",
        "opponent",
        "A moving average of the policy as opponent steadies training.",
        "holds under: a beta above `(1 - d) / 2`, with d the part that the average keeps. It acts "
        "as the beta `beta / (1 - d)`. That is for averages of log-probs or probabilities, where "
        "the paper averages weights",
        ("moving average of *",),
    ),
    PaperClaim(
        "IRIS",
        "abstract",
        "The data are the fixed point of its Renyi objective, at every order.",
        "holds, for a formula that is reconstructed from the abstract; the paper was not at hand",
        ("Renyi self-play",),
    ),
)
"""In the order of the papers."""
