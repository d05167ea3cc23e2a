"""The loop: one file per stage, and a table that says which stage each does."""
