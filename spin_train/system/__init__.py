"""Files, locks, processes and ranks; independent of SPIN and of configurations."""
