"""A run on disk: its stages, files, policies and status."""
