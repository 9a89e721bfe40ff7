"""Settings of all tests: frames of some sixty rows stay as small as they are."""

import os
from pathlib import Path

os.environ["LUIGI_CONFIG_PATH"] = str(Path(__file__).with_name("tiny.cfg"))
