"""Device tests: run a bundle on a phone or an emulator, check on the host what came back. Needs no torch."""
