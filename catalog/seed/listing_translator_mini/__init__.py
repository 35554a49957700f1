"""The seed vertical model: Chinese product title -> English marketplace title (跨境电商).

The whole shape, in reading order:

    words/*.toml     every Chinese-English word pair, and which words go together
    lexicon.py       reads them into plain data
    plural.py        English plurals, irregular ones included
    measures.py      sizes, quantities and other numbers, in both languages
    grammar.py       draws one title from a seeded random source
    splits.py        which titles are kept out of training; writes the held-out files
    chat.py          the one chat template, for training and for serving
    bpe.py           the tokenizer, and how a title becomes ids
    train.py         trains tokenizer and model (needs the training toolchain)
    package.py       writes release/: weights, configuration, tokenizer, template
    runners.py       weights or an ONNX variant: ids in, logits out
    decoding.py      greedy titles of a runner
    scoring.py       exact match, numbers preserved
    distance.py      KL and top-1 agreement of two builds
    endpoint.py      titles from any OpenAI-compatible endpoint
    evaluate.py      measures a folder or an endpoint on the held-out files

Only ``train``, ``package`` and weights in ``runners`` need torch (the training toolchain); the
grammar runs on the standard library. It may import nothing else of the house.
"""
