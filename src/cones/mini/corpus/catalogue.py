"""The 3D models of Sweet Home 3D's furniture libraries: names, sizes, creators, licences.

A library (``.sh3f``) is a zip with a Java properties file, in which every entry has a number:
``name#12=Round table``. Sizes are in centimetres.
"""

import re
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from cones.errors import SubjectError

# As the texts inside the libraries say; of those in BlendSwap-CC-BY one model says CC0 itself.
LIBRARIES = {
    "BlendSwap-CC-0": "CC0 1.0",
    "BlendSwap-CC-BY": "CC BY 3.0",
    "KatorLegaz": "CC BY 3.0 US",
    "Reallusion": "CC BY 3.0 US",
    "Scopia": "CC BY 3.0",
}
PROPERTIES = "PluginFurnitureCatalog.properties"


@dataclass(frozen=True)
class Model:
    """One entry of a library.

    Attributes:
        library: File of the library.
        identity: ``Scopia#old_jar``.
        name: ``Old jar``.
        creator: Who made it.
        licence: Of the library.
        size_cm: Width, depth, height.
        drop_on_top_cm: Height at which other things can stand on it, or None.
        rotation: Turns the mesh upright.
        file: Path of the OBJ file inside the library.
    """

    library: Path
    identity: str
    name: str
    creator: str
    licence: str
    size_cm: tuple[float, float, float]
    drop_on_top_cm: float | None
    rotation: Float[np.ndarray, "3 3"]
    file: str

    @property
    def source(self) -> str:
        """Name the library as the rows of the corpus do."""
        return f"sweethome3d:{self.library.stem}"


def catalogue(library: Path) -> list[Model]:
    """Read the models of a library, in its order.

    Raises:
        SubjectError: There is no such library, or it is not one.
    """
    try:
        with zipfile.ZipFile(library) as opened:
            text = opened.read(PROPERTIES).decode("latin-1")
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise SubjectError(
            f"found no furniture library at {library} ({error}); expected a .sh3f file with "
            f"{PROPERTIES}; fetch the package again"
        ) from error
    entries: dict[int, dict[str, str]] = {}
    for key, value in _properties(text):
        field, _, number = key.partition("#")
        if number.isdigit():
            entries.setdefault(int(number), {})[field] = value
    return [_model(library, entry) for _, entry in sorted(entries.items()) if "model" in entry]


def _model(library: Path, entry: dict[str, str]) -> Model:
    top = float(entry.get("dropOnTopElevation", "-1"))
    turns = entry.get("modelRotation", "1 0 0 0 1 0 0 0 1")
    return Model(
        library=library,
        identity=entry["id"],
        name=entry["name"],
        creator=entry.get("creator", library.stem),
        licence=LIBRARIES.get(library.stem, "see the library"),
        size_cm=tuple(float(entry[side]) for side in ("width", "depth", "height")),
        drop_on_top_cm=top if top > 0 else None,
        rotation=np.array([float(each) for each in turns.split()]).reshape(3, 3),
        file=entry["model"].lstrip("/"),
    )


def _properties(text: str) -> list[tuple[str, str]]:
    r"""Read Java properties: comments, continued lines, escapes such as ``\:``."""
    joined = re.sub(r"(?<!\\)((?:\\\\)*)\\\r?\n[ \t\f]*", r"\1", text)
    found = []
    for line in joined.splitlines():
        split = re.match(r"\s*((?:\\.|[^\s:=\\])+)\s*[:=]?\s*(.*)", line)
        if split and not re.match(r"\s*[#!]", line):
            found.append((_unescaped(split[1]), _unescaped(split[2])))
    return found


def _unescaped(text: str) -> str:
    known = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}

    def replaced(match: re.Match) -> str:
        code, sign = match.groups()
        return chr(int(code, 16)) if code else known.get(sign, sign)

    return re.sub(r"\\(?:u([0-9a-fA-F]{4})|(.))", replaced, text)
