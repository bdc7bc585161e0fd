"""A small bundle that the attacks and the fuzz tests start from; its model is never run."""

from __future__ import annotations

from exporters.manifest import (
    Content,
    FileEntry,
    FileGolden,
    FileInput,
    FileOutput,
    Golden,
    InputSpec,
    Manifest,
    Model,
    ModelFile,
    OutputSpec,
    Parity,
    Provenance,
    Rung,
    RuntimeResult,
    entry_of,
)
from hetero.preprocess import PreprocessSpec
from hetero.retrieval.verification import Rate, Threshold
from hetero.space import define_space

MODEL, OWN = "onnx/model.fp32.onnx", "golden/onnx.fp32.npy"
CONTENTS = {
    MODEL: b"not run by these tests " * 40,
    "golden/image-00.png": b"a picture",
    "golden/image-01.png": b"another picture",
    "golden/pixels.npy": bytes(range(200)),
    "golden/embeddings.npy": bytes(range(100)),
    OWN: bytes(range(90)),
}
THRESHOLD = Threshold(
    far=0.01,
    similarity=0.5,
    impostor_pairs=5000,
    calibration_far=0.009,
    calibration_queries=50,
    true_accept_rate=Rate(value=0.9, low=0.8, high=0.95),
    false_accept_rate=Rate(value=0.01, low=0.0, high=0.02),
    genuine_pairs=100,
    test_impostor_pairs=900,
)


def model_file(model: FileEntry, golden: FileEntry) -> ModelFile:
    """An entry of ``files`` as an export writes it, of an ONNX file that is none."""
    return ModelFile(
        **model.model_dump(),
        format="onnx",
        precision="fp32",
        recipe="fp32",
        opset=18,
        ops={"Conv": 3},
        content=Content(weight_bytes={"float32": 400}, layers=3, int8_layers=0),
        kept_float=(),
        fine_tuned=False,
        attempts=1,
        layers=(),
        input=FileInput(dtype="uint8", layout="NHWC", batch="free"),
        output=FileOutput(),
        ladder=(
            Rung(rung="tensor", status="passed", measured={"max_abs": 1e-7}, limits={"max_abs": 1e-5}),
            Rung(rung="cosine", status="no limit", measured={"min_cosine": 1.0}, limits={}),
            Rung(rung="retrieval", status="not measured", measured={}, limits={}),
            Rung(rung="flips", status="not measured", measured={}, limits={}),
            Rung(rung="thresholds", status="not measured", measured={}, limits={}),
        ),
        similarities=None,
        runtimes=(
            RuntimeResult(
                name="onnxruntime",
                version="1",
                right=True,
                parity=Parity(max_abs=1e-7, min_cosine=1.0, mean_cosine=1.0, self_r_at_1=1.0, images=2),
                reason=None,
            ),
        ),
        golden=FileGolden(**golden.model_dump(), max_abs=1e-5),
    )


def make_manifest() -> Manifest:
    spec = PreprocessSpec(height=8, width=6, channels=1, resize="squash", filter="bilinear", mean=(0.5,), std=(0.25,))
    return Manifest(
        name="student",
        licence="Apache-2.0",
        space=define_space(weights_sha256="a" * 64, preprocess_fingerprint=spec.fingerprint(), dim=4),
        model=Model(weights_sha256="b" * 64, arch={"stem": 8, "stages": [1, 2]}),
        input=InputSpec(height=8, width=6, channels=1),
        output=OutputSpec(dim=4),
        preprocess=spec,
        files=(model_file(entry_of(MODEL, CONTENTS[MODEL]), entry_of(OWN, CONTENTS[OWN])),),
        thresholds=(THRESHOLD,),
        golden=Golden(
            source="by hand",
            images=tuple(entry_of(name, data) for name, data in CONTENTS.items() if name.endswith(".png")),
            pixels=entry_of("golden/pixels.npy", CONTENTS["golden/pixels.npy"]),
            embeddings=entry_of("golden/embeddings.npy", CONTENTS["golden/embeddings.npy"]),
        ),
        calibration=None,
        retrieval=None,
        blocked=(),
        documents=(),
        provenance=Provenance(created_by="a test", hetero_version="0", tools=()),
    )
