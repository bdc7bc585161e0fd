#!/bin/sh
# What `make device-test` does: every file of a trained student on the emulated arm64 device, over real adb.
# QUERIES: how many pictures search (200). Exit code 1 where a cell fails.
set -eu
out=runs/device-test
machine=test
rm -rf "$out"
mkdir -p "$out"
if [ -n "${HETERO_DATA:-}" ] && [ -f "$HETERO_DATA/omniglot28.npz" ]; then
    student=tests/golden/omniglot/small
    gallery=tests/golden/omniglot/gallery
    data=$HETERO_DATA/omniglot28.npz
    proof="--data $data --no-retrieval" # for calibration only: the gallery model is not in the repository
else
    [ -f runs/demo/gallery-index/gallery.json ] || make demo
    student=runs/demo/students/small
    gallery=runs/demo/gallery-index
    data=runs/demo/pictures/manifest.csv
    proof=
fi
began=$(date +%s)
hetero device emulator build
echo "build: $(($(date +%s) - began)) s"
trap 'hetero device emulator stop --name "$machine" >/dev/null' EXIT
# shellcheck disable=SC2086 # proof is two words, or none
hetero export "$student" --format onnx --format tflite --precision fp32 --precision int8 $proof --out "$out/small.hetero"
hetero device run --bundle "$out/small.hetero" --gallery "$gallery" --data "$data" \
    --device "emulator:$machine" --queries "${QUERIES:-200}" --out "$out"
echo "all: $(($(date +%s) - began)) s"
