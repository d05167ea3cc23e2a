"""Configurations: the schema, files and presets, and what may change later."""
