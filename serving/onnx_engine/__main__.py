"""`python -m serving.onnx_engine FOLDER`: see `command.py`."""

import sys

from serving.onnx_engine.command import main

sys.exit(main(sys.argv[1:]))
