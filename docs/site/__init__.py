"""The documentation site: which pages it has, those that are generated, and how it is built."""
