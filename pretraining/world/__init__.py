"""Clay toys in painted places, with exact captions and masks; `world.toml` tells what varies."""

import tomllib
from pathlib import Path

TABLES = tomllib.loads(Path(__file__).with_name("world.toml").read_text("utf-8"))
