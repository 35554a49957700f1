"""The gateway beside its peers: `make bench-gateway`.

Lives here: an upstream that answers at once (`mock`), a load generator (`load`), the targets (`targets`)
and the interleaved run (`__main__`). Everything that is measured runs as a process.
"""
