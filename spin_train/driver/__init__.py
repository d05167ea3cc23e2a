"""The driver: checks before anything is loaded, starts the workers, waits for them."""
