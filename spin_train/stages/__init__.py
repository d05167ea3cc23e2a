"""The loop: one file per stage, and a table of which function does which stage."""
