"""Figures for the paper: each script computes, draws and saves one."""
