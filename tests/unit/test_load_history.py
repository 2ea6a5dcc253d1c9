"""Recordings become the telemetry that agents would have written, and bad files are refused."""

import gzip
import json
from datetime import UTC, datetime

import numpy as np
import pytest
from load_history import KNOWN_COLUMNS, device_of, main, telemetry
from recordings import (
    BadRecording,
    asd,
    jumpstarter,
    nab,
    read_nab,
    read_smd,
    read_unnamed,
    slow,
    smd,
)

SMD = """minute,cpu_r,mem_u,disk_u,eth1_fi,eth1_fo,label
0,0.080808,0.878507,0.25,0.117858,0.131127,
1,0.070707,0.8768,0.25,0.105554,0.124874,
3,0.5,1,0.25,0.000001,0,1
"""
NAB = """timestamp,value
2014-02-14 14:30:00,0.132
2014-02-14 14:35:00,51.846000000000004
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="mine.csv"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.fixture
def machine(tmp_path):
    path = tmp_path / "machine-9-9.csv.gz"
    path.write_bytes(gzip.compress(SMD.encode()))
    return path


def test_an_smd_machine_keeps_every_decimal(machine):
    fields = telemetry(machine).fields
    raw = read_smd(machine).values
    assert fields["system.cpuUsage"].tolist() == [8.0808, 7.0707, 50.0]
    for name, column in (("memory", 1), ("disk", 2)):
        share = fields[f"system.{name}Usage"] / fields[f"system.{name}Total"]
        np.testing.assert_allclose(share, raw[:, column], atol=1e-7)
        assert len(set(fields[f"system.{name}Total"])) == 1


def test_network_shares_accumulate_into_counters(machine):
    read = telemetry(machine)
    for counter, column in (("rxBytes", 3), ("txBytes", 4)):
        total = read.fields[f"system.network.{counter}"]
        assert (np.diff(total) >= 0).all()
        assert (total == np.round(total)).all()
        rate = np.diff(total) / np.diff(read.times)
        np.testing.assert_allclose(rate, 1e7 * read_smd(machine).values[1:, column])


def test_smd_labels_are_empty_in_the_first_half(machine):
    np.testing.assert_array_equal(read_smd(machine).label, [np.nan, np.nan, 1])


def test_unnamed_metrics_are_gauges_every_five_minutes(write):
    names = [f"m{i}" for i in range(19)]
    rows = [[*range(19), ""], [2.045e8, *range(1, 19), 1]]
    path = write("\n".join(",".join(map(str, row)) for row in ([*names, "label"], *rows)))
    machine, read = read_unnamed(path), telemetry(path)
    assert list(read.fields) == [f"system.{name}" for name in names]
    assert read.fields["system.m0"].tolist() == [0, 2.045e8]
    assert read.fields["system.m18"].tolist() == [18, 18]
    assert read.times.tolist() == machine.times.tolist() == [0, 300]
    assert machine.names == names
    assert machine.values.shape == (2, 19)
    np.testing.assert_array_equal(machine.label, [np.nan, 1])


def test_a_nab_series_is_a_cpu(write):
    read = telemetry(write(NAB))
    assert list(read.fields) == ["system.cpuUsage"]
    assert read.fields["system.cpuUsage"].tolist() == [0.132, 51.846000000000004]
    assert np.diff(read.times).tolist() == [300]
    assert read.times[0] == datetime(2014, 2, 14, 14, 30, tzinfo=UTC).timestamp()


def test_nab_labels_come_from_the_windows_beside_the_file(write, tmp_path):
    path = write(NAB)
    assert np.isnan(read_nab(path).label).all()
    window = ["2014-02-14 14:35:00.000000", "2014-02-14 15:00:00.000000"]
    (tmp_path / "windows.json").write_text(json.dumps({"mine.csv": [window]}))
    assert read_nab(path).label.tolist() == [0, 1]


@pytest.mark.parametrize(
    "stamps",
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
        ("2026-01-01 00:00", "2026-01-01 00:01"),
        ("2026-01-01T05:30:00+05:30", "2026-01-01T05:31:00+05:30"),
        ("1767225600", "1767225660"),
        ("1767225600000", "1767225660000"),
    ],
)
def test_times_may_be_written_in_several_ways(write, stamps):
    read = telemetry(write(f"Time,cpu\n{stamps[0]},1\n{stamps[1]},2\n"))
    assert read.times.tolist() == [1767225600, 1767225660]


@pytest.mark.parametrize("name", ["CPU", "cpu_usage", "cpu-percent", "cpuUsage"])
def test_a_column_is_placed_by_its_name(write, name):
    assert list(telemetry(write(f"ts,{name}\n0,1\n")).fields) == ["system.cpuUsage"]


def test_every_known_column_is_a_path_of_the_agents(write):
    assert {place.split(".")[0] for place in KNOWN_COLUMNS.values()} == {"system", "health"}


def test_a_percentage_of_memory_gets_a_total(write):
    fields = telemetry(write("ts,memory_percent\n0,41.5\n")).fields
    assert fields["system.memoryUsage"] / fields["system.memoryTotal"] == 0.415


def test_dotted_names_mapped_names_empty_cells_and_the_rest(write):
    path = write("ts,load,system.fan.rpm,note\n0,1,,x\n60,nan,900,y\n")
    read = telemetry(path, {"load": "system.cpuUsage"})
    np.testing.assert_array_equal(read.fields["system.cpuUsage"], [1, np.nan])
    np.testing.assert_array_equal(read.fields["system.fan.rpm"], [np.nan, 900])
    assert read.ignored == ("note",)


def test_a_mapping_wins_over_a_name(write):
    read = telemetry(write("ts,cpu\n0,1\n"), {"cpu": "system.temperature"})
    assert list(read.fields) == ["system.temperature"]


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        ("", {}, "needs a header and at least one row"),
        ("ts,cpu\n", {}, "needs a header and at least one row"),
        ("a,cpu\n1,2\n", {}, "no timestamp column among a, cpu; name it with --time"),
        ("ts,cpu\n1,2\n", {"time_column": "when"}, "no timestamp column"),
        ("ts,cpu\n1,2,3\n", {}, "row 2 has 3 columns, the header has 2"),
        ("ts,cpu\n1,2\n2,high\n", {}, "column cpu, row 3: 'high' is not a number"),
        ("ts,cpu\nyesterday,2\n", {}, "'yesterday' is not an ISO 8601 timestamp"),
        ("ts,cpu\nnan,2\n", {}, "times that are not finite"),
        ("ts,foo\n1,2\n", {}, "place one with --map foo=system.cpuUsage"),
        ("ts,cpu\n1,2\n", {"mapping": {"gpu": "system.gpu"}}, "no column gpu; it has ts, cpu"),
        ("ts,cpu,cpu_usage\n1,2,3\n", {}, "no room for cpu_usage at system.cpuUsage"),
        ("ts,a.b,a.b.c\n1,2,3\n", {}, "no room for a.b.c"),
        ("ts,health.status\n1,2\n", {}, "no room for health.status"),
        ("ts,cpu,cpu\n1,2,3\n", {}, "two columns have the same name"),
    ],
)
def test_a_bad_file_is_refused_with_the_reason(write, text, arguments, message):
    path = write(text)
    with pytest.raises(BadRecording) as refusal:
        telemetry(path, **arguments)
    assert message in str(refusal.value)
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("broken.csv.gz", b"not gzip"),
        ("cut.csv.gz", gzip.compress(SMD.encode() * 50)[:-40]),
        ("binary.csv", bytes(range(256))),
        ("nul.csv", b"ts,cpu\n1,\x00\n"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadRecording, match=name):
        telemetry(path)


def test_no_file_and_no_folder(tmp_path):
    with pytest.raises(BadRecording, match="no such file"):
        telemetry(tmp_path / "absent.csv")
    with pytest.raises(BadRecording, match="a folder, not a file"):
        telemetry(tmp_path)
    for find in (smd, asd, jumpstarter, nab, slow):
        with pytest.raises(BadRecording, match="give the folder of the recordings"):
            find(tmp_path)


def test_the_device_follows_from_the_file_name_alone():
    assert device_of("a/machine-1-3.csv.gz") == device_of("b/machine-1-3.csv.gz")
    assert device_of("machine-1-3.csv.gz") != device_of("machine-1-7.csv.gz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--map", "cpu"], "'cpu' is not COLUMN=json.path"),
        (["--map", "cpu=system"], "is not COLUMN=json.path"),
        (["--end", "tomorrow"], "'tomorrow' is not an ISO 8601 timestamp"),
    ],
)
def test_the_command_line_explains_a_mistake(monkeypatch, capsys, arguments, message):
    monkeypatch.setattr("sys.argv", ["load_history", "dbname=none", "a.csv", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_the_hosts_of_nab_are_those_with_a_cpu(tmp_path):
    (tmp_path / "nab").mkdir()
    for name in ("nyc_taxi", "rds_cpu_utilization_cc0c53", "ec2_cpu_utilization_24ae8d"):
        (tmp_path / "nab" / f"{name}.csv").write_text("timestamp,value\n")
    assert [path.stem for path in slow(tmp_path)] == ["nyc_taxi"]
    found = [path.stem for path in nab(tmp_path)]
    assert found == ["ec2_cpu_utilization_24ae8d", "rds_cpu_utilization_cc0c53"]
