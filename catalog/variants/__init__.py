"""Quantised builds of a release, and how each kind describes itself.

Lives here: the manifest that a builder (`quantize`) writes and an engine (`serving`) checks before it
loads anything. One file per kind of variant; the schema is the only thing the two folders share.

May import: `catalog.ground`. Standard library only, because a toolchain without our base environment
writes manifests too.
"""
