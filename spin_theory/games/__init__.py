"""Self-play as a dynamical system: opponents, solvers, play, stability."""
