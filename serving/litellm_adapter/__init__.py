"""Outside providers behind one process: litellm's translations, spoken to like any other engine.

    client ── endpoints.py ── requests.py (what may be asked) ── calls.py ──► litellm ──► provider
                 │  answers.py (what is said)                        │  failures.py (what went wrong)
                 └─ delivery.py (bytes out, client gone)             └─ egress.py (which hosts, no others)

    launch.py     from `tokenmart serve litellm` into litellm's own environment, where command.py is the door
    config.py     the file that lists the models    options.py  the command line
    meters.py     what is counted                   ../process  address, ready line, signals, drain, the key

litellm is imported by `calls.py` and `failures.py` alone, in the environment that `make toolchain-litellm`
makes; `launch`, `options`, `config` and `egress` also run without it. Nothing is retried, cached, logged
elsewhere or priced here: holds, fallbacks and bills are the gateway's. Imports `catalog.ground` and
`serving.process` only.
"""
