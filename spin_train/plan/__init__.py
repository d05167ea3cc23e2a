"""What a run will need, worked out before anything is loaded: memory, disk, steps and time."""
