"""Figures for the paper: each module computes numbers and draws one; `__main__` saves them."""
