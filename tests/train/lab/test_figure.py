"""What the bridge found, as a file, as tables and as a figure."""

from spin_train.lab.bridge import Bridge
from spin_train.lab.figure import ends_cells, findings_cells, save_figure, tables
from spin_train.lab.findings import Curve, End, Finding

END = End("SPIN", 4e-4, 2e-7, 0.3, "no step", 0.2, True, steps=10, outside=0.01)
BRIDGE = Bridge(
    (END, End("T-SPIN", 0.02, 1e-3, 0.6, "SPIN's", 0.1, False)),
    (
        Finding("slope", -0.5, -0.48, 0.1),
        Finding("cosine", 1.0, 1.0, 1e-9, wrong="the space alone", wrong_apart=2e-5),
    ),
    (
        Curve("SPIN", "gap", [10, 20], [0.1, -1e-9]),
        Curve("trained", "samples", [100, 1000], [0.1, 0.03]),
        Curve("delta method", "samples", [100, 1000], [0.1, 0.032]),
        Curve("few: measured", "modes", [1.0, 10.0], [0.9, 0.5]),
        Curve("few: predicted", "modes", [1.0, 10.0], [0.9, 0.5]),
    ),
)


def test_a_bridge_that_is_written_is_read_as_it_was(tmp_path):
    BRIDGE.write(tmp_path / "bridge.json")
    again = Bridge.read(tmp_path / "bridge.json")
    assert again.ends == BRIDGE.ends
    assert again.findings == BRIDGE.findings
    assert [vars(curve) for curve in again.curves] == [vars(curve) for curve in BRIDGE.curves]


def test_it_holds_only_if_every_row_does():
    assert not BRIDGE.holds
    assert Bridge((END,), BRIDGE.findings, ()).holds
    assert not Bridge((END,), (Finding("", 0.0, 1.0, 0.5),), ()).holds


def test_the_tables_say_what_does_not_hold():
    _, first, second = ends_cells(BRIDGE.ends)
    assert first == ("SPIN", "10", "4.0e-04", "2.0e-07", "1.0e-02", "no step, 0.200", "yes")
    assert second[-1] == "NO"
    assert findings_cells(BRIDGE.findings)[1:] == [
        ("slope", "-0.5", "-0.48", "0.1", "", "yes"),
        ("cosine", "1", "1", "1e-09", "the space alone, 2e-05", "yes"),
    ]
    assert [table.row_count for table in tables(BRIDGE)] == [2, 2]


def test_the_figure_is_the_same_on_every_run(tmp_path):
    for name in ("one.png", "other.png"):
        save_figure(BRIDGE, tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()
