"""Where SPIN pays: arms of self-play and continued SFT on known languages, from known bases.

===========  ==========================================================================
`world`      the language, its rows, held-out prompts, and networks of a given size
`bases`      five ways in which the model that games start from was trained
`arms`       continued SFT and the kinds of self-play that are compared with it
`training`   a step as the trainer computes it, and the games, in one process
`measuring`  exact numbers of a policy: KL, valid mass, greedy accuracy
`cells`      the grid, one line per cell on disk, resumed where it stopped
`verdicts`   the best setting of each arm, means, intervals, paired differences
`figure`     the table of a page and the figure
===========  ==========================================================================
"""
