"""Debian packages for arm64, from the mirror that this machine's own apt uses, without touching its configuration.

apt runs with a configuration, lists and cache of its own; it verifies the signed Release file and through it the
package lists, whose SHA-256 every package is then held to.
"""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

from device_tests.emulator.tools import run_tool
from device_tests.errors import EmulatorError

SUITE = "trixie"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
WANTED = ("adbd", "busybox-static", "python3.13-minimal", "libpython3.13-stdlib")
KERNEL = "linux-image-cloud-arm64"  # an empty package that depends on the kernel of the day
_APT_TIMEOUT_S = 300.0
_INRELEASE = re.compile(r"^'(\S+?)/?dists/[^']*/InRelease'")
_CONFIGURATION = """\
{acquire}
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "root"; // the cache is the user's own folder, which the user _apt may not enter
Acquire::Languages "none";
Acquire::Retries "2";
Acquire::http::Timeout "20";
Dir::Etc "{root}/etc";
Dir::Etc::main "none";
Dir::Etc::netrc "/etc/apt/auth.conf";
Dir::Etc::netrcparts "/etc/apt/auth.conf.d";
Dir::State "{root}";
Dir::State::lists "lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}/cache";
"""


@dataclass(frozen=True)
class Package:
    """A package as apt resolved it."""

    name: str
    version: str
    sha256: str


class Apt:
    """A private apt for arm64 under ``root``.

    Raises, from every method, :class:`~device_tests.errors.EmulatorError`.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        for folder in ("etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d", "lists/partial"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        (self.root / "cache" / "archives" / "partial").mkdir(parents=True, exist_ok=True)
        (self.root / "status").touch()
        (self.root / "apt.conf").write_text(_CONFIGURATION.format(root=self.root, acquire=_proxies()), encoding="utf-8")

    def update(self) -> str:
        """Fetch the package lists; returns the mirror that has them."""
        if not Path(KEYRING).is_file():
            raise EmulatorError(f"{KEYRING} is missing", fix="sudo apt-get install debian-archive-keyring")
        said = "this machine's apt has no sources"
        for mirror in mirrors():
            self._use(mirror)
            try:
                self._apt("apt-get", "update", "-o", "APT::Update::Error-Mode=any")
            except EmulatorError as error:
                said = str(error)
                continue
            return mirror
        raise EmulatorError(f"no mirror of this machine's apt sources serves Debian {SUITE}", got=said)

    def resolve(self) -> list[Package]:
        """The packages of the device and all that they depend on, and the kernel."""
        found = re.findall(
            r"^Inst (\S+) \((\S+) ", self._apt("apt-get", "install", "--simulate", *WANTED), re.MULTILINE
        )
        depends = self._apt("apt-cache", "depends", "--important", KERNEL)
        kernel = re.search(r"^\s+Depends: (linux-image-\S+)", depends, re.MULTILINE)
        if not found or kernel is None:
            raise EmulatorError("apt resolves the packages of the device to nothing")
        name = kernel.group(1)
        shown = self._apt("apt-cache", "show", "--no-all-versions", name)
        versions = [*found, (name, _field(shown, "Version"))]
        return [Package(name.split(":")[0], version, self._sha256(name, version)) for name, version in versions]

    def download(self, packages: list[Package]) -> list[Path]:
        """The .deb files of these packages, in their order, each with the hash that the signed lists give it."""
        archives = self.root / "cache" / "archives"
        for old in archives.glob("*.deb"):
            old.unlink()
        self._apt("apt-get", "download", *(f"{one.name}={one.version}" for one in packages), cwd=archives)
        by_hash = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in archives.glob("*.deb")}
        missing = [one.name for one in packages if one.sha256 not in by_hash]
        if missing:
            raise EmulatorError("downloaded packages are not those of the signed lists", got=", ".join(missing))
        return [by_hash[one.sha256] for one in packages]

    def _use(self, mirror: str) -> None:
        source = f"Types: deb\nURIs: {mirror}\nSuites: {SUITE}\nComponents: main\nSigned-By: {KEYRING}\n"
        (self.root / "etc" / "sources.list.d" / "device.sources").write_text(source, encoding="utf-8")

    def _sha256(self, name: str, version: str) -> str:
        return _field(self._apt("apt-cache", "show", f"{name}={version}"), "SHA256")

    def _apt(self, *argv: str, cwd: Path | None = None) -> str:
        env = {**os.environ, "APT_CONFIG": str(self.root / "apt.conf"), "LC_ALL": "C"}
        return run_tool(argv, timeout_s=_APT_TIMEOUT_S, env=env, cwd=cwd)


def _proxies() -> str:
    """How this machine's apt reaches its mirror: proxies, certificates and the like."""
    lines = run_tool(("apt-config", "dump"), timeout_s=_APT_TIMEOUT_S).splitlines()
    return "\n".join(line for line in lines if re.match(r"Acquire::(https?|ftp|proxy)", line, re.IGNORECASE))


def mirrors() -> list[str]:
    """The archives that this machine's apt is configured with, those of plain Debian releases first."""
    lines = run_tool(("apt-get", "update", "--print-uris"), timeout_s=_APT_TIMEOUT_S).splitlines()
    found = [match.group(1) for match in map(_INRELEASE.match, lines) if match]
    return sorted(dict.fromkeys(found), key=lambda uri: ("security" in uri, "debian" not in uri))


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{name}: (\S+)$", text, re.MULTILINE)
    if match is None:
        raise EmulatorError(f"apt gives no {name} of a package", got=text[:200])
    return match.group(1)
