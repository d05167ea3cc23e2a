"""SPIN's and T-SPIN's objectives on tables, exact and in linear time."""
