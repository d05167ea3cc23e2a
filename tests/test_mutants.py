import pytest

from tests.mutants import MUTANTS, TESTS, copy_repository


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("copy")
    copy_repository(folder)
    return folder


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: f"{mutant.path}: {mutant.name}")
def test_every_mutant_still_changes_the_line_it_names(copy, mutant):
    source = mutant.apply(copy)
    changed = copy / mutant.path
    assert changed.read_text() != source
    changed.write_text(source)


def test_every_mutated_file_has_tests(copy):
    for path in {mutant.path for mutant in MUTANTS}:
        assert all((copy / test).is_file() for test in TESTS[path])


def test_no_two_mutants_have_one_name():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
