"""What a training stage is made of: loss, examples, batches, trainer, checkpoints."""
