"""Minima of the objectives: closed forms, certified searches, lower bounds."""
