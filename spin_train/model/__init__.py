"""One log-prob per response, exact and fast: packing, attention, head, loading."""
