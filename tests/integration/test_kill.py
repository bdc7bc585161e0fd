"""``kill -9`` during training and during saving: no committed step is lost, and the end is the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
from toy import write_config

from hetero.training.resume import latest_state

KILLS = 10
SAVE_EVERY_STEP = [
    f"--set={section}.{key}"
    for section in ("gallery.train", "student_training")
    for key in ("save_every_steps=1", "epochs=25", "log_every_steps=3")
]


def command(config: Path, out: Path) -> list[str]:
    # Saving at every step makes most instants fall into a save.
    return [
        sys.executable, "-m", "hetero.cli", "train", str(config), "--out", str(out), "--threads", "1", *SAVE_EVERY_STEP,
    ]  # fmt: skip


def committed(out: Path) -> tuple[int, int]:
    """Steps committed in both phases, by the names of directories that exist."""
    return tuple(
        max((int(p.name.removeprefix("step-")) for p in (out / "state" / phase).glob("step-*")), default=0)
        for phase in ("gallery", "students")
    )


def results(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in sorted(out.glob("**/model.safetensors"))}


def test_ten_kills_at_random_instants_lose_no_committed_step(tmp_path):
    config = write_config(tmp_path)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command(config, whole), check=True, capture_output=True, timeout=300, env=environment)
    rng, kills, finished = random.Random(0), 0, False
    for _ in range(3 * KILLS):
        before = committed(cut)
        process = subprocess.Popen(
            command(config, cut), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment
        )
        # Wait until this process has committed something of its own, then kill it a random moment later.
        deadline = time.monotonic() + 120
        while process.poll() is None and committed(cut) == before and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0.0, 0.4))
        seen = committed(cut)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        _, errors = process.communicate(timeout=60)
        finished = finished or process.returncode == 0
        assert process.returncode in (0, -signal.SIGKILL), errors.decode()
        for phase, step in zip(("gallery", "students"), seen, strict=True):
            state = latest_state(cut / "state" / phase)
            assert (state.step if state else 0) >= step, f"a committed step of {phase} is gone"
        if finished or kills == KILLS:
            break
    assert kills == KILLS or finished
    subprocess.run(command(config, cut), check=True, capture_output=True, timeout=300, env=environment)
    assert kills >= KILLS, f"the run ended after {kills} kills: make it longer"
    assert results(cut) == results(whole)
