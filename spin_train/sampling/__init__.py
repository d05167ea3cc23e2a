"""Sampling from the opponent: the engines, and the prompts that they answer."""
