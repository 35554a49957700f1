"""What exists, and may it be listed.

Lives here: releases and artifacts, the Hugging Face Hub protocol, listings and search, compliance
review and filing, the seed models, and at the bottom (`catalog.ground`) the few modules that
every folder needs.

May import: nothing of ours but itself. Everyone above (`serving`, `quantize`, `benchmarks`,
`marketplace`) may import it.
"""
