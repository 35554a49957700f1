"""The seed vertical model: Chinese product title -> English marketplace title (跨境电商).

The whole shape, in reading order:

    lexicon/*.toml   every Chinese-English word pair, and which words go together
    lexicon.py       reads them into plain data
    plural.py        English plurals, irregular ones included
    measures.py      sizes, quantities and other numbers, in both languages
    grammar.py       draws one title from a seeded random source
    splits.py        which titles are kept out of training; writes the held-out files
    chat.py          the one chat template, for training and for serving
    bpe.py           the tokenizer, and how a title becomes ids
    train.py         trains tokenizer and model (needs the training toolchain)
    package.py       writes release/: weights, configuration, tokenizer, template
    scoring.py       exact match, numbers preserved
    evaluate.py      measures a folder of weights, or any OpenAI-compatible endpoint

Only ``train``, ``package`` and the weights half of ``evaluate`` need torch; everything else
runs on the standard library (``bpe`` on ``tokenizers``). It may import nothing of the house.
"""
