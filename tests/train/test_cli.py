import pytest

from spin_train.cli import app
from spin_train.errors import UserError


def test_a_grid_without_rates_names_the_flag():
    with pytest.raises(UserError, match="--learning-rates 1e-6,3e-6"):
        app(["grid", "config.yaml"], standalone_mode=False)
