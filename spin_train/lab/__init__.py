"""The laboratory: trained networks held against the exact theory."""
