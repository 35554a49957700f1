"""Turn one release into smaller variants, and prove that they still work.

Lives here: recipes (data), methods (one file each) and the comparison of before and after.

May import: `catalog`. It does not know `serving`; heavy toolchains live in environments of their own
(`make toolchain-<name>`) and are never needed to import this folder.
"""
