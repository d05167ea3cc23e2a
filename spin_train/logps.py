"""Where `response_logps` and `response_loss` are imported from; they live in `model.logps`."""

from spin_train.model.logps import Group, response_logps, response_loss

__all__ = ["Group", "response_logps", "response_loss"]
