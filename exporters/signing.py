"""Sign a bundle with a private key, and tell with its public key who made it: offline, with keys that you hold.

The signed thing is ``manifest.json``, which names every other file by its hash. The signature lies beside the bundle as
``NAME.hetero.sig``, in the format of the model-signing package. Specified in docs/bundle-spec.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exporters.bundle import Bundle, open_bundle, read_regular
from exporters.manifest import MANIFEST
from hetero import atomic
from hetero.errors import ConfigError, MissingExtraError, SignatureError

SUFFIX = ".sig"
MAX_SIGNATURE_BYTES = 1 << 16  # a real one has some 2 kB
_MAKE = "make one with openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
_CURVES = "an elliptic-curve key on P-256, P-384 or P-521, PEM"


def signature_path(bundle: Path | str) -> Path:
    """Where a bundle's signature lies: beside it, ``NAME.hetero.sig``."""
    path = Path(bundle)
    return path.with_name(path.name + SUFFIX)


def sign(
    bundle: Bundle | Path | str,
    private_key: Path | str,
    *,
    password: str | None = None,
    signature: Path | str | None = None,
) -> Path:
    """Sign a bundle, once it is known to be undamaged, and return the signature's path.

    Args:
        private_key: PEM file, an elliptic-curve key on P-256, P-384 or P-521.
        password: of an encrypted key.
        signature: where to write; with None, beside the bundle. An older one there is replaced.

    Raises:
        BundleError: the bundle is damaged. ConfigError: the key cannot be read or used, or needs a password.
        MissingExtraError: model-signing is not installed. StorageError: the disk refused.
    """
    signing = _library().signing
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    target = signature_path(bundle.path) if signature is None else Path(signature)
    _require_password(private_key, password)
    with _usable_key(private_key):
        # The annotation says text, the code behind it takes bytes only.
        given = None if password is None else password.encode()
        config = signing.Config().use_elliptic_key_signer(private_key=private_key, password=given)
    with _alone(bundle.raw, b"") as (manifest, written):
        config.set_hashing_config(_hashing()).sign(manifest, written)
        atomic.write_bytes(target, written.read_bytes())
    return target


def verify_signature(
    bundle: Bundle | Path | str, public_key: Path | str, *, signature: Path | str | None = None
) -> Bundle:
    """Refuse a bundle that the holder of the private key did not sign.

    What was signed is compared with the very bytes of the manifest that ``bundle`` was opened with, so that what
    :meth:`exporters.bundle.Bundle.read` then gives is signed, too, whatever happens to the directory.

    Args:
        public_key: PEM file, from a source that you trust: never from beside the bundle.
        signature: with None, the file beside the bundle.

    Raises:
        SignatureError: no signature, one that is no signature, or one of another key or another bundle.
        BundleError: the bundle is damaged. ConfigError: the key cannot be read or used.
        MissingExtraError: model-signing is not installed.
    """
    verifying = _library().verifying
    bundle = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    source = signature_path(bundle.path) if signature is None else Path(signature)
    with _usable_key(public_key):
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    if not source.is_file():
        raise SignatureError(
            f"{bundle.path} has no signature", expected=f"the file {source}", fix="get it from the bundle's maker"
        )
    signed = read_regular(source.parent, source.name, MAX_SIGNATURE_BYTES)
    with _alone(bundle.raw, signed) as (manifest, copied):
        try:
            with redirect_stdout(io.StringIO()):  # the library prints a warning about older signatures
                config.set_hashing_config(_hashing()).verify(manifest, copied)
        except Exception as error:  # a hostile file makes it raise whatever JSON, pydantic and cryptography raise
            raise SignatureError(
                f"{source} is no signature of {bundle.path} by the key {public_key}",
                got=ascii(f"{type(error).__name__}: {error}")[:200],
                fix="get bundle, signature and public key again from the bundle's maker",
            ) from error
    return bundle


def _library() -> Any:
    try:
        import model_signing.signing
        import model_signing.verifying
    except ImportError as error:
        raise MissingExtraError("signing bundles and verifying signatures", "model-signing", "signing") from error
    return model_signing


def _hashing() -> Any:
    """One file, all of it: no paths to ignore, which a signature would name."""
    return _library().hashing.Config().set_ignored_paths(paths=(), ignore_git_paths=False)


@contextmanager
def _alone(manifest: bytes, signature: bytes) -> Iterator[tuple[Path, Path]]:
    """The bytes as two files in a directory of their own: the library takes paths, and others may change the bundle."""
    with TemporaryDirectory() as folder:
        paths = Path(folder, MANIFEST), Path(folder, "signature")
        for path, data in zip(paths, (manifest, signature), strict=True):
            path.write_bytes(data)
        yield paths


def _require_password(key: Path | str, password: str | None) -> None:
    with _usable_key(key):
        encrypted = b"ENCRYPTED" in Path(key).read_bytes()
    if encrypted and password is None:
        raise ConfigError(
            f"the key {key} is encrypted and needs its password",
            fix="put the password into an environment variable and name it with --password-env",
        )


@contextmanager
def _usable_key(key: Path | str) -> Iterator[None]:
    """Reading and parsing a key: whatever it raises says that the key cannot be used."""
    try:
        yield
    except OSError as error:
        raise ConfigError(f"cannot read the key {key}", got=error.strerror, fix="check the path") from error
    except AttributeError as error:  # keys of another kind have no curve
        raise ConfigError(
            f"cannot use the key {key}", got="a key of another kind", expected=_CURVES, fix=_MAKE
        ) from error
    except Exception as error:  # ValueError, TypeError, AttributeError and errors of cryptography's own
        raise ConfigError(
            f"cannot use the key {key}",
            got=ascii(str(error).splitlines()[0] if str(error) else type(error).__name__),
            expected=_CURVES,
            fix=f"check the password; or {_MAKE}",
        ) from error
