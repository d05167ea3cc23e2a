"""Files, locks, processes and ranks; knows nothing of SPIN or of configurations."""
