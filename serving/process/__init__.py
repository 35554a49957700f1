"""What every engine process of ours does alike, below the engines.

    options.py    address, key, drain time, parent: on every engine's command line
    listening.py  the socket, and the URL it is reached at        parent.py  die with whoever started us
    running.py    uvicorn, the ready line, signals, the drain
    edge.py       the key, bodies in, JSON and refusals out       bodies.py  a body as a checked struct
    events.py     answers as server-sent events

Runs wherever an engine runs: the standard library, starlette, uvicorn and msgspec, and of ours
`catalog.ground` alone. `options`, `listening` and `parent` do without those three, for they are used
before an engine imports what is heavy. Knows no engine; an engine takes what fits it.
"""
