"""The public names with their types: where ``__init__.py`` finds them when they are used."""

from cones.concept import Concept as Concept
from cones.concept import Word as Word
from cones.drawing import Request as Request
from cones.drawing import compare as compare
from cones.drawing import generate as generate
from cones.errors import ConesError as ConesError
from cones.exporting import export as export
from cones.hub import load as load
from cones.hub import push as push
from cones.intervention import shut as shut
from cones.library import Library as Library
from cones.mask import Mask as Mask
from cones.models.loading import load_pipeline as load_pipeline
from cones.search.find import find as find
from cones.search.find import find_jointly as find_jointly
from cones.search.settings import Settings as Settings
from cones.subject import Subject as Subject

__version__: str
__all__: list[str]
