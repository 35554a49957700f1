"""The light engine: an OpenAI-compatible HTTP server over plain onnxruntime.

    client ── endpoints.py ── requests.py (what may be asked) ── engine.py ─┐ event loop
                 │  answers.py (what is said)                                │
                 └─ delivery.py (bytes out, client gone)                     │ submit / cancel
                                                                             ▼
    scheduler.py: one thread. rows 0..n-1 of decoder.py decode together,  model thread
    one more row prefills in chunks between the steps; sequence.py is one row's life:
    sampling.py chooses a token, text.py turns tokens into whole characters and finds stop strings

    options.py  what can be set          loading.py  verify, then load       template.py  chat template
    meters.py   what is counted          process.py  from loaded to drained  command.py  the door
    ../process  socket, ready line, signals, drain, the key, refusals

Needs onnxruntime, tokenizers, jinja2, numpy, starlette, uvicorn, msgspec, prometheus-client: no torch,
no transformers. Imports `catalog.ground`, `catalog.variants` and `serving.process` only. A prefix cache
would fit between `scheduler` and `decoder`: spare rows keyed by token ids, a hit copies columns as
`Decoder.move` does.
"""
