"""An emulated arm64 Linux device that is reached over real adb: Debian's kernel, adbd and Python under QEMU.

It has no bionic, no ART, no ``am`` and no ``pm``, and its speed says nothing about a phone's.
"""
