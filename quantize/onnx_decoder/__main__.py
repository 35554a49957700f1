"""`python -m quantize.onnx_decoder`: see `command.py`."""

import sys

from quantize.onnx_decoder.command import main

sys.exit(main(sys.argv[1:]))
