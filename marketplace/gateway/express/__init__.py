"""The express lane: plain chat calls of busy accounts, served by compiled code; all others by Python.

    lane, hooks ──► hot, exchange ──► terms, resumed        (imports point this way)
    lane ──► _core: the C++ beside this file, made by `build`

`terms` and `resumed` are plain data: what compiled code is told, and what it gives back.
"""
