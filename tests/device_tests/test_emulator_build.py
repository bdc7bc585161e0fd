"""Building and starting the emulated device: what can be told without booting it."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from commands import run

from device_tests import emulated
from device_tests.emulator import build as building
from device_tests.emulator import machine as machines
from device_tests.emulator import packages, tools, wheels
from device_tests.emulator.cpio import CpioWriter
from device_tests.emulator.image import write_bytecode
from device_tests.errors import EmulatorError
from device_tests.folders import host_id, process_start


def unpacked(data: bytes) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each entry, read by the format's definition: headers of 13 hexadecimal numbers."""
    found, place = {}, 0
    while place < len(data):
        header = data[place : place + 110]
        assert header[:6] == b"070701"
        numbers = [int(header[6 + 8 * k : 14 + 8 * k], 16) for k in range(13)]
        name = data[place + 110 : place + 110 + numbers[11] - 1].decode()
        start = -(-(place + 110 + numbers[11]) // 4) * 4
        content = data[start : start + numbers[6]]
        place = -(-(start + numbers[6]) // 4) * 4
        if name != "TRAILER!!!":
            found[name] = numbers[1], content
    return found


def test_the_archive_is_what_its_format_says_and_the_same_every_time():
    def written():
        stream = io.BytesIO()
        archive = CpioWriter(stream)
        archive.link("bin", "usr/bin")
        archive.file("usr/bin/tool", b"abc", 0o755)
        archive.file("usr/bin/tool", b"another", 0o755)  # the first stays
        archive.node("dev/null", 1, 3)
        archive.close()
        return stream.getvalue()

    found = unpacked(written())
    assert list(found) == ["bin", "usr", "usr/bin", "usr/bin/tool", "dev", "dev/null"]
    assert found["usr/bin/tool"] == (0o100755, b"abc")
    assert found["bin"] == (0o120777, b"usr/bin")
    assert found["usr"] == (0o040755, b"")
    assert found["dev/null"][0] == 0o020600
    assert written() == written()


def test_bytecode_is_appended_as_an_archive_of_its_own():
    tar_stream = io.BytesIO()
    with tarfile.open(fileobj=tar_stream, mode="w") as tar:
        for name, data in (("usr/lib/a/__pycache__/b.cpython-313.pyc", b"code"), ("usr/lib/a/evil.so", b"no")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    stream = io.BytesIO()
    write_bytecode(stream, tar_stream.getvalue())
    found = unpacked(stream.getvalue())
    assert found["usr/lib/a/__pycache__/b.cpython-313.pyc"][1] == b"code"
    assert not any(name.endswith(".so") for name in found)


def test_a_program_that_is_missing_is_one_line_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    result = run("device", "emulator", "start", code=2)
    assert result.stderr.count("\n") == 1
    assert "no qemu-system-aarch64, adb; fix: sudo apt-get install qemu-system-arm adb" in result.stderr


def test_the_mirror_is_the_one_that_apt_is_configured_with(monkeypatch):
    said = (
        "'http://security.example/debian-security/dists/bookworm-security/InRelease' a_InRelease 0 \n"
        "'https://mirror.example/debian/dists/bookworm/InRelease' b_InRelease 0 \n"
        "'https://mirror.example/debian/dists/bookworm-updates/InRelease' c_InRelease 0 \n"
    )
    monkeypatch.setattr(packages, "run_tool", lambda *args, **kwargs: said)
    assert packages.mirrors() == ["https://mirror.example/debian", "http://security.example/debian-security"]


def test_no_address_of_a_mirror_or_an_index_is_written_down():
    folder = Path(building.__file__).parent
    for path in folder.iterdir():
        if path.is_file():
            assert "://" not in path.read_text(encoding="utf-8"), path


@pytest.fixture
def cached(tmp_path):
    """A cache with one finished build."""
    folder = tmp_path / "cache" / "builds" / "0123456789abcdef"
    folder.mkdir(parents=True)
    hashes = {}
    for name in (building.KERNEL, building.ROOT):
        (folder / name).write_bytes(name.encode())
        hashes[name] = hashlib.sha256(name.encode()).hexdigest()
    (folder / building.MANIFEST).write_text(json.dumps({"packages": [], "sha256": hashes}))
    return tmp_path / "cache"


def test_where_no_mirror_answers_the_cached_build_is_used_and_told(cached, monkeypatch):
    monkeypatch.setattr(building, "require_tools", lambda *names: None)
    monkeypatch.setattr(packages, "mirrors", lambda: ["http://127.0.0.1:9/debian"])
    said = []
    made = building.build_device(cached, lambda kernel, root: b"", say=said.append)
    assert made.key == "0123456789abcdef"
    assert "no mirror answers" in said[0]
    with pytest.raises(EmulatorError, match="no mirror of this machine's apt sources serves Debian trixie"):
        building.build_device(cached.parent / "empty", lambda kernel, root: b"")


def test_wheels_are_pinned_and_another_file_is_refused(tmp_path, monkeypatch):
    pinned = wheels.pins()
    assert {name.split("==")[0] for name in pinned} >= {"ai-edge-litert", "onnxruntime", "numpy"}
    assert not any(name.startswith("tflite-runtime") for name in pinned)
    monkeypatch.setattr(wheels, "run_tool", lambda *args, **kwargs: (tmp_path / "numpy.whl").write_bytes(b"other"))
    with pytest.raises(EmulatorError, match="did not fetch the pinned wheels"):
        wheels.fetch_wheels(tmp_path)


def test_a_tool_that_fails_or_hangs_is_told_with_what_it_said():
    with pytest.raises(EmulatorError, match="exit code 3: it broke"):
        tools.run_tool(("sh", "-c", "echo it broke >&2; exit 3"), timeout_s=10)
    with pytest.raises(EmulatorError, match="did not end in time"):
        tools.run_tool(("sleep", "10"), timeout_s=0.2)
    with pytest.raises(EmulatorError, match="cannot run"):
        tools.run_tool(("no-such-program",), timeout_s=1)


@pytest.fixture
def sleeper(tmp_path):
    """A process that stands for the machine, recorded as one."""
    process = subprocess.Popen(["sleep", "600"], start_new_session=True)
    started = f"{host_id()} {process_start(process.pid)}"
    machine = machines.Machine("m", process.pid, started, 40000, "b", "/nowhere")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "m.json").write_text(json.dumps(vars(machine)))
    yield process, machine, folder
    process.kill()
    process.wait()


def test_a_machine_is_ended_by_its_recorded_process_only(sleeper):
    process, machine, folder = sleeper
    assert machines.running(folder, "m") == machine
    machines.end(folder, machine)
    assert process.wait(5) == -signal.SIGTERM
    assert not (folder / "m.json").exists()


def test_a_process_that_got_the_machines_number_later_is_left_alone(sleeper):
    process, machine, folder = sleeper
    earlier = machines.Machine(**{**vars(machine), "started": "1"})
    (folder / "m.json").write_text(json.dumps(vars(earlier)))
    assert machines.running(folder, "m") is None
    machines.end(folder, earlier)
    assert process.poll() is None


def test_a_damaged_record_is_no_machine(tmp_path):
    (tmp_path / "m.json").write_text("{")
    assert machines.running(tmp_path, "m") is None


def test_a_machine_that_ends_while_booting_is_told_with_its_console(tmp_path, monkeypatch, sleeper):
    process, machine, _ = sleeper
    console = tmp_path / "console"
    console.write_text("booting\nKernel panic - not syncing\n")
    process.kill()
    process.wait()
    with pytest.raises(EmulatorError, match=r"process ended; its console: booting \| Kernel panic"):
        emulated._wait_for(machines.Machine(**{**vars(machine), "console": str(console)}))


def test_ports_that_adb_scans_are_never_chosen(monkeypatch):
    ports = [machines.free_port() for _ in range(50)]
    assert not set(ports) & set(range(5555, 5586))


def test_two_starts_wait_for_each_other(tmp_path):
    began = time.monotonic()
    program = (
        "import sys, time; from pathlib import Path; from device_tests.emulator.machine import locked\n"
        "with locked(Path(sys.argv[1]), 'm'):\n    print('held', flush=True); time.sleep(1)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with machines.locked(tmp_path, "m"):
        assert time.monotonic() - began > 1
    process.wait()


def test_the_init_script_is_sound():
    script = Path(building.__file__).with_name("init")
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def test_a_package_with_another_hash_than_the_signed_lists_give_it_is_refused(tmp_path, monkeypatch):
    apt = packages.Apt(tmp_path)
    archives = tmp_path / "cache" / "archives"
    (archives / "old.deb").write_bytes(b"right")  # of an earlier build: never used again

    def fake(argv, **kwargs):
        (archives / "adbd.deb").write_bytes(b"wrong")
        return ""

    monkeypatch.setattr(packages, "run_tool", fake)
    wanted = packages.Package("adbd", "1", hashlib.sha256(b"right").hexdigest())
    with pytest.raises(EmulatorError, match=r"signed lists \(device emulator\); got adbd"):
        apt.download([wanted])
    matching = packages.Package("adbd", "1", hashlib.sha256(b"wrong").hexdigest())
    assert apt.download([matching]) == [archives / "adbd.deb"]


def test_a_build_that_was_damaged_is_not_used(cached):
    assert building.newest_build(cached).key == "0123456789abcdef"
    (cached / "builds" / "0123456789abcdef" / building.ROOT).write_bytes(b"damaged")
    assert building.newest_build(cached) is None


def test_proxies_of_this_machines_apt_are_used(tmp_path, monkeypatch):
    said = 'Acquire "";\nAcquire::http::Proxy "squid:3128";\nAcquire::Languages "";\nDir "/";\n'
    monkeypatch.setattr(packages, "run_tool", lambda *args, **kwargs: said)
    packages.Apt(tmp_path)
    text = (tmp_path / "apt.conf").read_text()
    assert 'Acquire::http::Proxy "squid:3128";' in text
    assert 'Dir "/"' not in text
