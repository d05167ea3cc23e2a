"""Rows to records: sources, formats, rendering, and the record of a prompt."""
