import ast
from pathlib import Path

import pytest

from spin_theory import tolerances

PACKAGE = Path(tolerances.__file__).parent
STATEMENTS = ast.parse(Path(tolerances.__file__).read_text(encoding="utf-8")).body


@pytest.mark.parametrize("name", tolerances.__all__)
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
