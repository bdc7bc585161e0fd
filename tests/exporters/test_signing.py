"""Signed bundles: the maker's pass, and forged, mixed and damaged ones are refused, with keys made here."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from torch import nn
from typer.testing import CliRunner

import hetero.cli as cli
from exporters import export, open_bundle, sign, verify, verify_signature
from exporters.bundle import seal_of, write_bundle
from exporters.manifest import entry_of
from exporters.signing import MAX_SIGNATURE_BYTES
from hetero.errors import BundleError, ConfigError, MissingExtraError, SignatureError
from hetero.preprocess import PreprocessSpec
from hetero.space import define_space

sys.path.insert(0, str(Path(__file__).parent.parent / "attacks"))
from sample import CONTENTS, MODEL, make_manifest

PASSWORD = "correct horse"
WRONG_PASSWORD = r"cannot use the key .*check the password"  # one in some 500 decrypts to nonsense instead of failing


@pytest.fixture(scope="module", autouse=True)
def model_signing(needs: Callable[[str], ModuleType]) -> ModuleType:
    return needs("model_signing")


@pytest.fixture(scope="module")
def keys(model_signing: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Paths of a maker's and an attacker's key pairs, the maker's encrypted private key, and unusable ones."""
    from cryptography.hazmat.primitives import serialization as pem
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    folder = tmp_path_factory.mktemp("keys")

    def written(name: str, key: Any, password: str | None = None) -> Path:
        encoding, plain = pem.Encoding.PEM, pem.NoEncryption()
        if hasattr(key, "public_key"):
            how = pem.BestAvailableEncryption(password.encode()) if password else plain
            data = key.private_bytes(encoding, pem.PrivateFormat.PKCS8, how)
        else:
            data = key.public_bytes(encoding, pem.PublicFormat.SubjectPublicKeyInfo)
        (folder / name).write_bytes(data)
        return folder / name

    own, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    return SimpleNamespace(
        private=written("private.pem", own),
        encrypted=written("encrypted.pem", own, PASSWORD),
        public=written("public.pem", own.public_key()),
        attacker=written("attacker.pem", other),
        attacker_public=written("attacker_public.pem", other.public_key()),
        rsa=written("rsa.pem", rsa.generate_private_key(65537, 2048)),
        ed25519=written("ed25519.pem", ed25519.Ed25519PrivateKey.generate().public_key()),
        koblitz=written("koblitz.pem", ec.generate_private_key(ec.SECP256K1())),
    )


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose model is none."""
    return write_bundle(tmp_path / "student.hetero", make_manifest(), CONTENTS).path


@pytest.fixture(scope="module")
def runnable(tmp_path_factory: pytest.TempPathFactory, needs: Callable[[str], ModuleType]) -> Path:
    needs("onnxruntime")
    spec = PreprocessSpec(height=6, width=5, channels=1)
    space = define_space(weights_sha256="a" * 64, preprocess_fingerprint=spec.fingerprint(), dim=4)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)).eval()
    return export(network, tmp_path_factory.mktemp("signing") / "tiny.hetero", preprocess=spec, space=space).path


def forge(bundle: Path, data: bytes = b"another model") -> None:
    """Put another model into the bundle and make everything in it agree, as an attacker would."""
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["files"][0].update(entry_of(MODEL, data).model_dump())
    raw = json.dumps(manifest).encode()
    (bundle / MODEL).write_bytes(data)
    (bundle / "manifest.json").write_bytes(raw)
    (bundle / "bundle.sha256").write_bytes(seal_of(raw))


def test_a_signed_bundle_is_the_makers_and_opens_as_before(bundle: Path, keys: SimpleNamespace) -> None:
    before = sorted(bundle.rglob("*"))
    written = sign(bundle, keys.private)
    assert written == bundle.with_name("student.hetero.sig")
    assert sorted(bundle.rglob("*")) == before
    assert open_bundle(bundle).manifest == verify_signature(bundle, keys.public).manifest


def test_plain_opening_accepts_a_forged_bundle_and_the_signature_refuses_it(
    bundle: Path, keys: SimpleNamespace
) -> None:
    sign(bundle, keys.private)
    forge(bundle)
    assert open_bundle(bundle).read(MODEL) == b"another model"
    with pytest.raises(SignatureError, match=r"is no signature of .*student\.hetero by the key.*mismatch"):
        verify_signature(bundle, keys.public)
    sign(bundle, keys.attacker)  # the forger's own signature beside it
    verify_signature(bundle, keys.attacker_public)
    with pytest.raises(SignatureError, match=r"is no signature of .*by the key"):
        verify_signature(bundle, keys.public)


def test_what_is_read_later_is_what_was_signed(bundle: Path, keys: SimpleNamespace) -> None:
    sign(bundle, keys.private)
    honest = Path(shutil.copytree(bundle, bundle.with_name("honest.hetero")))
    forge(bundle)
    opened = open_bundle(bundle)
    shutil.rmtree(bundle)
    honest.rename(bundle)  # the directory is honest again while the signature is looked at
    with pytest.raises(SignatureError):
        verify_signature(opened, keys.public)
    opened = verify_signature(bundle, keys.public)
    forge(bundle)
    with pytest.raises(BundleError, match="is not the file"):
        opened.read(MODEL)


@pytest.mark.parametrize("name", ["manifest.json", "bundle.sha256", *CONTENTS])
def test_one_changed_byte_in_a_signed_bundle_is_refused(bundle: Path, keys: SimpleNamespace, name: str) -> None:
    sign(bundle, keys.private)
    data = bytearray((bundle / name).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / name).write_bytes(data)
    with pytest.raises(BundleError, match=name):
        verify_signature(bundle, keys.public)
    with pytest.raises(BundleError, match=name):
        sign(bundle, keys.private)  # a damaged bundle is not signed


def test_a_signature_of_another_bundle_is_refused(bundle: Path, keys: SimpleNamespace, tmp_path: Path) -> None:
    other = make_manifest().model_copy(update={"licence": "MIT"})
    second = write_bundle(tmp_path / "second.hetero", other, CONTENTS).path
    sign(bundle, keys.private)
    with pytest.raises(SignatureError, match="mismatch"):
        verify_signature(second, keys.public, signature=bundle.with_name("student.hetero.sig"))


def test_a_missing_signature_says_where_it_was_looked_for(bundle: Path, keys: SimpleNamespace) -> None:
    with pytest.raises(SignatureError, match=r"has no signature; expected the file .*student\.hetero\.sig"):
        verify_signature(bundle, keys.public)


def edited(signature: bytes, edit: Callable[[dict[str, Any]], object]) -> bytes:
    content = json.loads(signature)
    edit(content)
    return json.dumps(content).encode()


def swap_payload(content: dict[str, Any]) -> None:
    """Sign nothing anew, but claim another hash."""
    envelope = content["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    statement["predicate"]["resources"][0]["digest"] = "0" * 64
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


BAD_SIGNATURES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda good: b"",
    "no JSON": lambda good: b"\xff" + good,
    "a list": lambda good: b"[]",
    "deep": lambda good: b"[" * 60_000,
    "numbers": lambda good: b'{"verificationMaterial": 1}',
    "another payload": lambda good: edited(good, swap_payload),
    "no signatures": lambda good: edited(good, lambda content: content["dsseEnvelope"].update(signatures=[])),
    "the hint alone": lambda good: edited(good, lambda content: content.pop("dsseEnvelope")),
    "cut": lambda good: good[:-10],
}


@pytest.mark.parametrize("kind", BAD_SIGNATURES)
def test_hostile_signatures_are_refused(
    bundle: Path, keys: SimpleNamespace, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = sign(bundle, keys.private)
    path.write_bytes(BAD_SIGNATURES[kind](path.read_bytes()))
    with pytest.raises(SignatureError, match="is no signature of"):
        verify_signature(bundle, keys.public)
    assert capfd.readouterr() == ("", "")


def test_another_keys_signature_under_this_keys_name_is_refused(
    bundle: Path, keys: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    """The hint of the key is not signed: with it taken over or left out, the signature itself must fail."""
    from cryptography.exceptions import InvalidSignature

    hint = json.loads(sign(bundle, keys.private).read_bytes())["verificationMaterial"]["publicKey"]
    forge(bundle)
    path = sign(bundle, keys.attacker)
    for name in (hint, {}):
        path.write_bytes(
            edited(path.read_bytes(), lambda c, name=name: c["verificationMaterial"].update(publicKey=name))
        )
        with pytest.raises(SignatureError) as caught:
            verify_signature(bundle, keys.public)
        assert isinstance(caught.value.__cause__, InvalidSignature)
    assert capfd.readouterr() == ("", "")


def test_a_huge_or_linked_signature_is_not_read(bundle: Path, keys: SimpleNamespace) -> None:
    path = sign(bundle, keys.private)
    moved = path.rename(path.with_name("elsewhere"))
    path.symlink_to(moved)
    with pytest.raises(BundleError, match="cannot be opened as a regular file"):
        verify_signature(bundle, keys.public)
    path.unlink()
    path.write_bytes(b" " * (MAX_SIGNATURE_BYTES + 1))
    with pytest.raises(BundleError, match="too large"):
        verify_signature(bundle, keys.public)


def test_an_encrypted_key_signs_with_its_password_only(bundle: Path, keys: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match=r"is encrypted and needs its password.*--password-env"):
        sign(bundle, keys.encrypted)
    with pytest.raises(ConfigError, match=WRONG_PASSWORD):
        sign(bundle, keys.encrypted, password="wrong")
    with pytest.raises(ConfigError, match="Password was given but private key is not encrypted"):
        sign(bundle, keys.private, password=PASSWORD)
    assert not bundle.with_name("student.hetero.sig").exists()
    sign(bundle, keys.encrypted, password=PASSWORD)
    verify_signature(bundle, keys.public)


def test_keys_that_cannot_be_used_are_named(bundle: Path, keys: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key")
    for key in (keys.rsa, keys.koblitz, keys.public, tmp_path / "text.pem"):
        with pytest.raises(ConfigError, match=f"cannot use the key .*{key.name}.*P-256, P-384 or P-521"):
            sign(bundle, key)
    for key in (keys.ed25519, keys.private, tmp_path / "text.pem"):
        with pytest.raises(ConfigError, match=f"cannot use the key .*{key.name}"):
            verify_signature(bundle, key)
    for use in (sign, verify_signature):
        with pytest.raises(ConfigError, match=r"cannot read the key .*none\.pem.*No such file"):
            use(bundle, tmp_path / "none.pem")


def test_a_missing_package_names_the_extra(
    bundle: Path, keys: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "model_signing.signing", None)
    for use, key in ((sign, keys.private), (verify_signature, keys.public)):
        with pytest.raises(MissingExtraError, match=r"model-signing.*hetero\[signing\]"):
            use(bundle, key)


@pytest.mark.parametrize(
    ("private", "public", "size"), [("private", "public", 256), ("attacker", "attacker_public", 384)]
)
def test_the_format_is_as_specified(bundle: Path, keys: SimpleNamespace, private: str, public: str, size: int) -> None:
    """A reader written from docs/bundle-spec.md alone."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    envelope = json.loads(sign(bundle, getattr(keys, private)).read_bytes())["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    [signature] = envelope["signatures"]
    key = serialization.load_pem_public_key(getattr(keys, public).read_bytes())
    assert isinstance(key, ec.EllipticCurvePublicKey)
    signed = b"DSSEv1 28 application/vnd.in-toto+json %d " % len(payload) + payload
    digest = {256: hashes.SHA256(), 384: hashes.SHA384()}[size]
    key.verify(base64.b64decode(signature["sig"], validate=True), signed, ec.ECDSA(digest))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    expected = hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()
    assert json.loads(payload)["predicate"] == {
        "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
        "resources": [{"name": ".", "algorithm": "sha256", "digest": expected}],
    }


def test_the_packages_own_command_verifies_the_signature(bundle: Path, keys: SimpleNamespace) -> None:
    """As docs/bundle-spec.md says: others need nothing of ours."""
    signature = sign(bundle, keys.private)
    command = [sys.executable, "-m", "model_signing", "verify", "key", bundle / "manifest.json"]
    command += ["--signature", signature, "--public_key"]
    codes = [
        subprocess.run([*command, key], capture_output=True, timeout=120).returncode
        for key in (keys.public, keys.attacker_public)
    ]
    assert codes[0] == 0
    assert codes[1] != 0


def test_verify_checks_the_signature_before_it_runs_anything(
    runnable: Path, keys: SimpleNamespace, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(runnable, tmp_path / "tiny.hetero"))
    names = [check.name for check in verify(path).checks]
    sign(path, keys.private)
    report = verify(path, public_key=keys.public)
    assert report.passed
    assert [check.name for check in report.checks] == [names[0], "signature", *names[1:]]
    for key, signature in ((keys.attacker_public, None), (keys.public, tmp_path / "none.sig")):
        report = verify(path, public_key=key, signature=signature)
        assert [(check.name, check.passed) for check in report.checks] == [("integrity", True), ("signature", False)]
    with pytest.raises(ConfigError, match="with a public key, and none is given"):
        verify(path, signature=tmp_path / "none.sig")


def run(*arguments: object, code: int = 0, env: dict[str, str] | None = None) -> Any:
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments], env=env)
    assert result.exit_code == code, (result.stdout, result.stderr)
    return result


def test_the_commands_sign_and_verify(runnable: Path, keys: SimpleNamespace, tmp_path: Path) -> None:
    path, elsewhere = Path(shutil.copytree(runnable, tmp_path / "tiny.hetero")), tmp_path / "kept.sig"
    assert "has no signature" in run("verify", path, "--public-key", keys.public, "--json", code=1).stdout
    found = json.loads(run("sign", path, "--key", keys.private, "--json").stdout)
    assert found == {"bundle": str(path), "signature": f"{path}.sig"}
    assert json.loads(run("verify", path, "--public-key", keys.public, "--json").stdout)["passed"]
    run("sign", path, "--key", keys.encrypted, "--password-env", "KEY_PASSWORD", env={"KEY_PASSWORD": PASSWORD})
    assert "FAILED" in run("verify", path, "--public-key", keys.attacker_public, code=1).stdout
    assert str(elsewhere) in run("sign", path, "--key", keys.private, "--signature", elsewhere).stdout
    run("verify", path, "--public-key", keys.public, "--signature", elsewhere)
    data = np.load(path / "golden" / "pixels.npy")
    np.save(path / "golden" / "pixels.npy", data + 1)
    assert not json.loads(run("verify", path, "--public-key", keys.public, "--json", code=1).stdout)["passed"]


def test_the_commands_say_what_is_wrong_with_a_key(bundle: Path, keys: SimpleNamespace) -> None:
    for arguments, env, message in (
        (["--key", keys.encrypted], {}, "is encrypted and needs its password"),
        (["--key", keys.encrypted, "--password-env", "KEY_PASSWORD"], {}, "'KEY_PASSWORD' is not set"),
        (["--key", keys.encrypted, "--password-env", "KEY_PASSWORD"], {"KEY_PASSWORD": "x"}, WRONG_PASSWORD),
        (["--key", "none.pem"], {}, "cannot read the key none.pem"),
    ):
        result = run("sign", bundle, *arguments, code=2, env=env)
        assert re.search(message, result.stderr, re.DOTALL)
        assert PASSWORD not in result.stderr
    assert "cannot read the key" in run("verify", bundle, "--public-key", "none.pem", code=2).stderr
