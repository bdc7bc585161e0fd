"""How long one picture takes on this machine. Never in a bundle: equal inputs give equal bundles, clocks do not."""

from __future__ import annotations

from contextlib import ExitStack
from statistics import median

from exporters.bundle import Bundle
from exporters.runtimes import require_named
from exporters.signature import require_signature, signature_of
from exporters.verify import golden_arrays
from exporters.workers import RuntimeWorker, is_installed
from hetero.errors import ConfigError

_WARM_UP = 5  # the first runs allocate, and fill caches
REFERENCE = "mil-reference"  # reads the file slowly; nobody embeds with it
THREADS = 1  # what a phone spends on a picture; more threads would compare schedulers


def latency(bundle: Bundle, *, runs: int = 20) -> dict[str, dict[str, float]]:
    """Median milliseconds to embed one golden picture: by file (its path), then by runtime.

    Each file runs in each runtime that the manifest calls right for it and that is installed here, with one thread, in
    a process of its own; not in Core ML's reference, which only checks. Included is turning a picture's bytes into what
    the file takes, and a result into float32.

    Raises:
        ConfigError: fewer than one run.
        BundleError: a file changed since the bundle was opened, or takes something else than its manifest says.
        RuntimeFailedError: a runtime that was right when the bundle was made does not run the file here.
    """
    if runs < 1:
        raise ConfigError("too few runs to take a median of", got=runs, expected="1 or more")
    picture = golden_arrays(bundle)[0][:1]
    manifest = bundle.manifest
    found: dict[str, dict[str, float]] = {}
    with ExitStack() as stack:
        workers: dict[str, RuntimeWorker] = {}
        for file in manifest.files:
            found[file.path] = {}
            data, where = bundle.read(file.path), str(bundle.path / file.path)
            require_named(data, file.format, manifest.space.id, manifest.preprocess.fingerprint(), where=where)
            expected = signature_of(file.input, file.output, manifest.input, manifest.output)
            for result in file.runtimes:
                if not result.right or result.name == REFERENCE or not is_installed(result.name):
                    continue
                if result.name not in workers:
                    workers[result.name] = stack.enter_context(RuntimeWorker(result.name))
                worker = workers[result.name]
                require_signature(worker.open(data, threads=THREADS), expected, where=where)
                worker.run(picture)
                worker.time_ms(_WARM_UP)
                found[file.path][result.name] = median(worker.time_ms(runs))
    return found
