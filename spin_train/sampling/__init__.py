"""The opponent plays: engines, and the prompts that they answer."""
