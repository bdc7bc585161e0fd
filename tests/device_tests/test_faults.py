"""Every fault of a phone or its cable is one typed error or a bounded retry, and nothing stays on the device."""

from __future__ import annotations

import os
import re
import time

import pytest
from fake_adb import FakeDevice, Fault

from device_tests.adb import AdbDevice
from device_tests.cells import Settings
from device_tests.check import run_check
from device_tests.choose import chosen_serials
from device_tests.errors import (
    CommandError,
    DeviceFullError,
    DeviceLostError,
    DeviceNotFoundError,
    DevicePermissionError,
    DeviceTimeoutError,
    DeviceUnauthorizedError,
    TransferError,
)
from device_tests.folders import host_id
from device_tests.queries import load_queries
from device_tests.workspace import Workspace

RUNNER = r"runner job\.json"


@pytest.fixture
def check(toy, tmp_path):
    """Run the check on fake devices; returns the report and what was said."""

    def run(*devices, back_timeout_s=3.0, timeout_s=60.0, out="out"):
        said = []
        queries = load_queries(toy.pictures, toy.gallery, toy.bundle.manifest.preprocess, count=24)

        def opener(device):
            def opened():
                found = AdbDevice(device.serial, back_timeout_s=back_timeout_s)
                found.connect()
                return found

            return opened

        checked = run_check(
            toy.bundle,
            toy.gallery,
            queries,
            {device.serial: opener(device) for device in devices},
            tmp_path / out,
            settings=Settings(timeout_s=timeout_s),
            say=said.append,
        )
        return checked.report, said

    return run


@pytest.fixture
def phone(tmp_path, adb):
    device = FakeDevice("PHONE1", tmp_path / "phone")
    device.server = adb(device)
    return device


def retried(said):
    return [line for line in said if "trying again" in line]


def test_a_phone_without_faults_passes_and_keeps_nothing(phone, check):
    report, said = check(phone)
    [cell] = report.cells
    assert cell.status == "passed", cell.reasons
    assert report.verdict == "passed"
    assert not retried(said)
    assert report.devices[0].kind == "android-physical"
    assert cell.latency_ms is not None
    assert cell.latency_ms.quoted
    assert (cell.temperature_c, cell.battery_percent) == ((31.2, 31.2), 83.0)
    assert phone.files == []


def test_a_connection_that_breaks_in_the_middle_of_a_push_is_pushed_again(phone, check):
    phone.faults.append(Fault(r"push .*model", "disconnect", after=100_000))
    report, said = check(phone)
    assert report.verdict == "passed"
    assert len(retried(said)) == 1
    assert "PHONE1" in retried(said)[0]
    assert phone.files == []


def test_a_push_that_always_breaks_is_given_up_with_serial_and_command(phone, check):
    phone.faults.append(Fault(r"push .*model", "disconnect", times=99, after=100_000))
    report, said = check(phone)
    [cell] = report.cells
    assert cell.status == "failed"
    assert re.search(r"device PHONE1, command 'push .*model\.onnx'.*tried 3 times", cell.reasons[0])
    assert len(retried(said)) == 2
    assert phone.files == []


def test_an_offline_device_is_reconnected(phone, check):
    phone.state = "offline"
    report, _ = check(phone)
    assert report.verdict == "passed"
    assert phone.server.reconnects == ["PHONE1"]
    assert phone.files == []


def test_a_device_that_stays_offline_is_given_up_in_bounded_time(phone, check):
    phone.state = "offline"
    phone.faults.append(Fault("reconnect", "stay"))
    began = time.monotonic()
    report, _ = check(phone, back_timeout_s=1.0)
    assert time.monotonic() - began < 20
    assert report.verdict == "failed"
    assert "offline after 1 s" in report.cells[0].reasons[0]
    assert report.devices[0].error
    with pytest.raises(DeviceLostError):
        AdbDevice("PHONE1", back_timeout_s=0.5).connect()
    assert phone.files == []


def test_an_unauthorized_phone_says_what_to_do(phone, check):
    phone.state = "unauthorized"
    report, _ = check(phone)
    assert "allow USB debugging" in report.cells[0].reasons[0]
    with pytest.raises(DeviceUnauthorizedError, match="PHONE1"):
        AdbDevice("PHONE1").connect()
    assert phone.files == []


def test_a_phone_that_is_unauthorized_in_the_middle_is_not_tried_again(phone, check):
    original = phone.fault

    def fault(name):
        if re.search(RUNNER, name):
            phone.state = "unauthorized"
        return original(name)

    phone.fault = fault
    phone.faults.append(Fault(RUNNER, "disconnect"))
    report, _ = check(phone)
    assert "allow USB debugging" in report.cells[0].reasons[0]
    assert report.devices[0].leftovers  # nothing can be removed there, and the report says so
    phone.state, phone.fault = "device", original
    report, _ = check(phone, out="again")
    assert report.verdict == "passed"
    assert phone.files == []


def test_a_phone_that_reboots_while_it_runs_is_waited_for(phone, check):
    phone.faults.append(Fault(RUNNER, "reboot", seconds=1.0))
    report, said = check(phone)
    assert report.verdict == "passed"
    assert len(retried(said)) == 1
    assert phone.files == []


def test_a_phone_that_goes_away_keeps_its_folder_until_it_is_met_again(phone, check):
    phone.faults.append(Fault(RUNNER, "away"))
    report, _ = check(phone, back_timeout_s=0.5)
    assert report.verdict == "failed"
    [left] = report.devices[0].leftovers
    folder = re.search(r"hetero-[0-9a-f]{12}", left).group(0)
    assert phone.files[0] == folder
    phone.come_back()
    report, said = check(phone)
    assert report.verdict == "passed"
    assert any(f"removed /data/local/tmp/{folder}" in line for line in said)
    assert report.devices[0].leftovers == ()
    assert phone.files == []


def test_a_full_phone_is_told_before_a_push_and_in_one(phone, check):
    phone.faults.append(Fault(r"push .*queries", "full", times=9))
    report, said = check(phone)
    assert re.search(r"no space left \(device PHONE1, command 'push .*No space left", report.cells[0].reasons[0])
    assert not retried(said)
    assert phone.files == []
    (phone.root / "bin" / "df").write_text("#!/bin/sh\necho 'fake 1000 900 100 90% /data'\n")
    with Workspace(AdbDevice("PHONE1")) as workspace, pytest.raises(DeviceFullError, match="bytes free"):
        workspace.ensure("large", bytes(200_000))
    assert phone.files == []


@pytest.mark.parametrize("where", ["push", "mkdir"])
def test_access_refused_is_told_with_the_folder(phone, check, where):
    if where == "push":
        phone.faults.append(Fault(r"push .*runner", "refuse", times=9))
    else:
        (phone.root / "bin" / "mkdir").unlink()
        (phone.root / "bin" / "mkdir").write_text('#!/bin/sh\necho "mkdir: $2: Permission denied" >&2; exit 1\n')
        (phone.root / "bin" / "mkdir").chmod(0o755)
    report, said = check(phone)
    assert re.search(r"access refused \(device PHONE1, command .*ermission denied", report.cells[0].reasons[0])
    assert not retried(said)
    if where == "push":
        phone.faults.append(Fault(r"push .*", "refuse"))
    with Workspace(AdbDevice("PHONE1")) as workspace, pytest.raises(DevicePermissionError):
        workspace.ensure("file", b"x")
    assert phone.files == []


def test_a_hung_runner_is_ended_and_its_process_killed(phone, check):
    phone.faults.append(Fault(RUNNER, "hang"))
    began = time.monotonic()
    report, said = check(phone, timeout_s=2.0)
    assert time.monotonic() - began < 30
    assert "did not answer in time" in report.cells[0].reasons[0]
    assert not retried(said)
    until = time.monotonic() + 5
    while phone.alive and time.monotonic() < until:
        time.sleep(0.05)
    assert phone.alive == []
    assert phone.files == []


def test_a_hung_command_of_the_harness_itself_is_a_timeout(phone):
    device = AdbDevice("PHONE1")
    phone.faults.append(Fault("sleep 60", "hang"))
    began = time.monotonic()
    with pytest.raises(DeviceTimeoutError, match=r"PHONE1.*sleep 60"):
        device.run(("sleep", "60"), timeout_s=0.5)
    assert time.monotonic() - began < 5


def test_a_command_that_never_stops_talking_ends_at_the_deadline(phone):
    began = time.monotonic()
    with pytest.raises(DeviceTimeoutError):
        AdbDevice("PHONE1").run(("sh", "-c", "while true; do echo x; sleep 0.01; done"), timeout_s=1.0)
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("file", ["embeddings", "result"])
def test_a_truncated_pull_is_noticed_and_pulled_again(phone, check, file):
    phone.faults.append(Fault(rf"pull .*{file}", "truncate", after=1000))
    report, said = check(phone)
    assert report.verdict == "passed"
    assert len(retried(said)) == 1
    assert "arrived other than it was sent" in retried(said)[0]
    assert phone.files == []


def test_a_pull_that_is_always_truncated_is_a_typed_error(phone):
    with Workspace(AdbDevice("PHONE1")) as workspace:
        workspace.ensure("file", os.urandom(5000))
        phone.faults.append(Fault(r"pull .*", "truncate", after=1000))
        with pytest.raises(TransferError, match="1000 bytes"):
            workspace.fetch("file", limit_bytes=10_000)
    assert phone.files == []


@pytest.mark.parametrize("features", ["shell_v2,cmd", "cmd"])
def test_a_wrong_exit_code_fails_the_cell_with_the_code(phone, check, features):
    phone.features = features
    phone.faults.append(Fault(RUNNER, "code", code=139, times=9))
    report, said = check(phone)
    assert re.search(r"device PHONE1, command '\S+ runner job.json', exit code 139", report.cells[0].reasons[0])
    assert not retried(said)
    assert phone.files == []


def test_an_exit_code_that_is_not_sent_is_never_taken_for_success(phone, check):
    phone.faults.append(Fault(RUNNER, "silent"))
    report, said = check(phone)
    assert len(retried(said)) == 1  # the connection ended before the code: tried again
    assert report.verdict == "passed"
    phone.features = "cmd"
    phone.faults.append(Fault("true", "silent"))
    with pytest.raises(CommandError, match="exit code that can be trusted"):
        AdbDevice("PHONE1").run(("true",), timeout_s=5)
    assert phone.files == []


@pytest.mark.parametrize("features", ["shell_v2,cmd", "cmd"])
def test_crlf_output_changes_nothing(phone, check, features):
    phone.crlf, phone.features = True, features
    report, _ = check(phone)
    assert report.verdict == "passed", report.cells[0].reasons
    assert report.devices[0].model == "Fake Phone"
    assert phone.files == []


def test_of_two_devices_only_the_one_named_is_used(tmp_path, adb, check):
    first, second = (FakeDevice(serial, tmp_path / serial) for serial in ("PHONE1", "PHONE2"))
    adb(first, second)
    report, _ = check(second)
    assert report.verdict == "passed"
    assert first.commands == []
    assert second.commands
    with pytest.raises(DeviceNotFoundError, match="PHONE1, PHONE2"):
        chosen_serials([])
    assert chosen_serials(["all"]) == ["PHONE1", "PHONE2"]
    assert first.files == second.files == []


def test_two_devices_with_one_serial_are_refused(tmp_path, adb, check):
    first, second = (FakeDevice("PHONE1", tmp_path / name) for name in ("a", "b"))
    adb(first, second)
    report, _ = check(first)
    assert "several devices have one serial" in report.cells[0].reasons[0]
    assert first.commands == second.commands == []


def test_android_serial_names_the_device(tmp_path, adb, monkeypatch):
    adb(*(FakeDevice(serial, tmp_path / serial) for serial in ("PHONE1", "PHONE2")))
    monkeypatch.setenv("ANDROID_SERIAL", "PHONE2")
    assert chosen_serials([]) == ["PHONE2"]
    assert chosen_serials(["PHONE1"]) == ["PHONE1"]


def test_a_serial_that_is_not_there_lists_those_that_are(phone):
    with pytest.raises(DeviceNotFoundError, match="PHONE1"):
        AdbDevice("NOSUCH").connect()


def test_several_devices_run_at_the_same_time_and_one_that_fails_leaves_the_others_alone(tmp_path, adb, check):
    good, bad = (FakeDevice(serial, tmp_path / serial) for serial in ("GOOD", "BAD"))
    bad.faults.append(Fault(RUNNER, "code", code=9, times=9))
    adb(good, bad)
    report, _ = check(good, bad)
    assert {cell.device: cell.status for cell in report.cells} == {"GOOD": "passed", "BAD": "failed"}
    assert report.verdict == "failed"
    assert good.files == bad.files == []


def test_a_folder_of_a_run_that_was_killed_is_removed_at_the_next_contact(phone, check, toy):
    """What SIGKILL leaves: the note on the host, the folder on the device, and an owner that is no more."""
    import json

    from device_tests import workspace

    with Workspace(AdbDevice("PHONE1")) as open_one:
        open_one.ensure("file", b"x")
        note = open_one._note
        content = json.loads(note.read_text())
        assert content["folder"] == open_one.folder
        killed = {**content, "folder": "/data/local/tmp/hetero-0123456789ab", "owner": [host_id(), 2**22 + 1, "1"]}
        (phone.root / "tmp" / "hetero-0123456789ab").mkdir()
        (note.parent / "hetero-0123456789ab").write_text(json.dumps(killed))
        other = {**content, "folder": "/data/local/tmp/hetero-ba9876543210", "owner": ["another machine", 1, "1"]}
        (note.parent / "hetero-ba9876543210").write_text(json.dumps(other))  # whether it still runs is not known
        (phone.root / "tmp" / "hetero-ba9876543210").mkdir()
        (note.parent / "hetero-ffffffffffff").write_text('{"folder": 5, "owner": null}')
        assert workspace.sweep(AdbDevice("PHONE1")) == []
        (phone.root / "tmp" / "hetero-ba9876543210").rmdir()
        assert phone.files == [os.path.basename(open_one.folder), f"{os.path.basename(open_one.folder)}/file"]
    assert phone.files == []


def test_a_device_that_writes_without_end_does_not_fill_the_hosts_memory(phone, monkeypatch):
    from device_tests import output

    monkeypatch.setattr(output, "MAX_OUTPUT_BYTES", 100_000)
    with pytest.raises(CommandError, match="writes without end"):
        AdbDevice("PHONE1").run(("python3", "-c", "print('x' * 300_000)"), timeout_s=30)


def test_a_file_that_arrives_other_than_it_was_sent_is_pushed_again(phone, check):
    phone.faults.append(Fault(r"push .*queries", "corrupt"))
    report, said = check(phone)
    assert report.verdict == "passed"
    assert len(retried(said)) == 1
    assert "arrived other than it was sent (device PHONE1, command 'push" in retried(said)[0]
    assert phone.files == []


def test_what_a_device_says_cannot_steer_a_terminal(phone):
    phone.faults.append(Fault("push", "refuse"))
    wire = AdbDevice("PHONE1")
    with pytest.raises(DevicePermissionError) as caught:
        wire.push(b"x", "/data/local/tmp/\x1b[2J\x07file")
    assert str(caught.value).isprintable()
    (phone.root / "props" / "ro.product.model").write_text("\x1b]0;pwned\x07 [/bold] phone\n")
    assert wire.properties().model == "Fake  ]0;pwned  [/bold] phone"


def test_a_device_that_is_used_by_another_check_is_waited_for(phone, check, toy):
    import threading

    hold, held = threading.Event(), threading.Event()
    original = phone.fault

    def fault(name):
        if re.search(RUNNER, name) and not held.is_set():
            held.set()
            hold.wait(20)
        return original(name)

    phone.fault = fault
    reports = []
    first = threading.Thread(target=lambda: reports.append(check(phone, out="first")))
    first.start()
    assert held.wait(30)
    second = threading.Thread(target=lambda: reports.append(check(phone, out="second")))
    second.start()
    time.sleep(1.0)
    running = sum(bool(re.search(RUNNER, command)) for command in phone.commands)
    hold.set()
    first.join(60)
    second.join(60)
    assert running == 1
    assert [report.verdict for report, _ in reports] == ["passed", "passed"]
    assert any("another check runs on this device" in line for _, said in reports for line in said)
    assert phone.files == []
