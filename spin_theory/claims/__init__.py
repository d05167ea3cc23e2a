"""Every claim of the papers, and of ours, as a check that can fail."""
