"""Every claim of the papers, and of ours, as a check that can fail.

A check takes what is claimed as an argument where that is a function (an objective, an update), so
that a wrong one can be put in its place and has to be found out. It returns evidence: whether the
claim held, the residual, the tolerance, and the numbers it rests on.

=====================  ==========================================================================
``losses``             the penalties and the losses of single pairs, written out again
``divergences``        the divergences, in more digits
``tables``             tables, averages over prompts, and who the opponent is
``language``           the language whose probabilities are known
``languages``          more such languages, and all that their methods say of them
``sums``               objectives as sums over all pairs
``theorem_5_2``        the opponent is a global minimum where it is the data, and only there
``witnesses``          at which beta it is not, in a table
``classes``            the same in log-linear and quantised classes
``theorem_5_4``        the closed-form update is the global minimiser
``remark_5_5``         which responses become more likely
``iteration``          one iteration: the opponent's update, the start value, the likelihood
``existence``          where the exact update exists: its normaliser
``first_step``         SPIN's first step is SFT's
``objective``          convexity, and the least value of every penalty
``searches``           what a search returns: certificates, gradients and gaps
``sft_term``           objectives with an SFT term, and their certificates
``hinge_bounds``       lower bounds of the hinge that any potentials prove
``pointwise``          SPACE and GSIL, whose losses score each response alone
``pointwise_game``     their games, at the opponent and near the data
``renyi_play``         self-play with a Renyi divergence, as far as its formula is known
``preference``         SPIN is DPO's population loss
``distance``           what the loss proves about the distance between opponent and data
``samples``            power of the meter, pairs for a distance, minima of sampled pairs
``estimates``          finite samples: a minimum, its distance, every number of the meter
``calibration``        the beta that margins show, and how surely
``finite``             games on rows drawn once and kept
``games``              whole games: iterates, and opponents that mix or average them
``moving_average``     SPIN against a moving average of its iterates
``global_rate``        SPIN at any distance: Hilbert's metric, and Euler's steps
``rates``              multipliers, waiting times and cycles
``linear_map``         one iteration as a matrix
``inexact``            games solved by a few steps
``sft_game``           games with an SFT term: their multiplier
``far_starts``         the same games from far away
``temperature``        samples at another temperature
``inexact_game``       an optimiser's steps, and what sums games up
``hinge_game``         the hinge's cycle of two near the data
``history``            SPIN with T-SPIN's history term
``resting_point``      SPIN rests where SFT does
``token_trees``        what changes where policies write token by token
``tspin``              what the paper of T-SPIN claims
``tspin_game``         what we derive of the games that T-SPIN plays
``basins``             a game of T-SPIN with two attractors
=====================  ==========================================================================

Each of these files ends with its own table, ``CLAIMS``. ``table`` is their union, ``verification``
checks all of it on the random tables of ``instances``, and ``rows`` prints it. ``claim`` and
``evidence`` say what a claim and a finding are. ``nearby`` and ``brackets`` are parts of checks.
``papers`` lists what the papers claim, each with our verdict.

A new claim is a check in the file it belongs to, an entry in that file's ``CLAIMS``, and a test.
The command line and the tables in the documentation follow.
"""
