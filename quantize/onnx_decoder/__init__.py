"""Turn a Hugging Face decoder folder into a variant that `serving.onnx_engine` serves.

    builder.py   onnxruntime-genai's model builder, as a process of its own
    surgery.py   the graph's lengths become inputs, so that rows of a batch can join and leave
    proof.py     load what was built; compare it with the builder's own graph; generate
    variant.py   the whole way: build, operate, prove, copy the tokenizer, write the manifest
    command.py   `python -m quantize.onnx_decoder HF_FOLDER OUT_FOLDER --precision int4`

Needs the toolchain of `make toolchain-train`; importing this package needs nothing.
"""
