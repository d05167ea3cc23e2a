import pytest

from tests import processors

TEST = "import os\ndef test_the_unit():\n    assert os.environ['OPENBLAS_CORETYPE'] == 'Haswell'\n"


@pytest.mark.process
@pytest.mark.parametrize(
    ("environments", "code"),
    [
        ([{"OPENBLAS_CORETYPE": "Haswell"}], 0),
        ([{"OPENBLAS_CORETYPE": "Haswell"}, {"OPENBLAS_CORETYPE": "Zen"}], 1),
    ],
)
def test_a_row_says_which_test_fails_in_an_environment(
    environments, code, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(processors, "ENVIRONMENTS", environments)
    path = tmp_path / "test_unit.py"
    path.write_text(TEST)
    assert processors.main([str(path)]) == code
    *rows, total = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == [
        f"OPENBLAS_CORETYPE={each['OPENBLAS_CORETYPE']}" for each in environments
    ]
    assert rows[0].endswith("s  passes")
    assert total == f"{len(rows)} environments, {code} fail"
    if code:
        assert "FAILS" in rows[1]
        assert "test_the_unit" in rows[1]


def test_the_files_that_are_run_are_there():
    assert all((processors.ROOT / path).is_file() for path in processors.TESTS)


@pytest.mark.process
def test_tests_that_do_not_run_are_no_failure_of_a_processor(tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "ENVIRONMENTS", [{}])
    with pytest.raises(AssertionError, match="the tests did not run"):
        processors.main([str(tmp_path / "missing.py")])
