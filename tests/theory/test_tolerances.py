import ast
import json
import pickle
from pathlib import Path

import pytest

from spin_theory import tolerances

PACKAGE = Path(tolerances.__file__).parent
STATEMENTS = ast.parse(Path(tolerances.__file__).read_text(encoding="utf-8")).body


@pytest.mark.parametrize("name", [name for name in tolerances.__all__ if name.isupper()])
def test_every_tolerance_has_its_reason_and_a_place_that_needs_it(name):
    (place,) = (
        number
        for number, statement in enumerate(STATEMENTS)
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == name
    )
    reason = STATEMENTS[place + 1]
    assert isinstance(reason, ast.Expr)
    assert isinstance(ast.literal_eval(reason.value), str)
    others = (path for path in PACKAGE.rglob("*.py") if path.name != "tolerances.py")
    assert any(name in path.read_text(encoding="utf-8") for path in others)


def test_a_tolerance_of_claims_is_a_number_with_its_reason():
    copy = pickle.loads(pickle.dumps(tolerances.ROUNDING))  # as worker processes send it back
    for found in (tolerances.ROUNDING, copy):
        assert found == 1e-12
        assert found.reason.startswith("rounding")
        assert f"{found:.0e}" == "1e-12"
        assert json.loads(json.dumps(found)) == 1e-12
