"""Share concepts on the Hugging Face Hub: ``hub:owner/name`` where a concept file is read.

A repository holds one concept file and a card that tells its certificate. What is pushed are
positions and words; photos and weights never leave the machine.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, ModelCardData, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
)

from cones import concept_file
from cones.concept import Concept
from cones.errors import FileError

SCHEME, FILE, CARD = "hub:", "concept.safetensors", "README.md"
_TEMPLATE = Path(__file__).with_name("hub_card.md")
_MISSING = (RepositoryNotFoundError, EntryNotFoundError, HFValidationError)


def load(source: str | Path) -> Concept:
    """Read a concept from a file or from the hub: ``hub:owner/name`` or ``hub:owner/name@branch``.

    Raises:
        FileError: There is no such file, or it is damaged, of another version or something else.
    """
    return concept_file.load(local(source))


def local(source: str | Path) -> Path:
    """Give the path of a concept file; one of the hub is fetched, or is the last copy."""
    name = source.as_posix() if isinstance(source, Path) else source
    if not name.startswith(SCHEME):
        return Path(source)
    name, _, revision = name.removeprefix(SCHEME).partition("@")
    with _told(name):
        return Path(hf_hub_download(name, FILE, revision=revision or None))


def push(concept: Concept, name: str, *, private: bool = False, overwrite: bool = False) -> str:
    """Put a concept on the hub, with a card made from its certificate.

    ``name`` is ``owner/name``, or a name among your own. With ``overwrite`` an older concept is
    replaced; the repository keeps it in its history.

    Returns:
        What others load: ``hub:owner/name``.

    Raises:
        FileError: There is another repository of that name, no login, or no answer.
    """
    data = concept_file.dumps(concept)
    with _told(name):
        api = HfApi()
        name = api.create_repo(name, private=private, exist_ok=True).repo_id
        there = {*api.list_repo_files(name)} - {".gitattributes"}
        if there and not (overwrite and FILE in there):
            raise FileError(
                f"{name!r} on the hub holds {', '.join(sorted(there)[:3])}; expected a new name, "
                "or an older concept and overwrite=True (--overwrite); choose another name"
            )
        files = {FILE: data, CARD: card(concept, name).encode()}
        operations = [CommitOperationAdd(at, content) for at, content in files.items()]
        api.create_commit(name, operations, commit_message=f"Add {concept.prompt}")
    return f"{SCHEME}{name}"


def card(concept: Concept, name: str) -> str:
    """Write the card of a concept: what it is, how to use it, its certificate and settings."""
    base, certificate = concept.base.model, concept.certificate
    on_hub = base.count("/") == 1
    data = ModelCardData(
        base_model=base if on_hub else None,
        library_name="cones",
        pipeline_tag="text-to-image",
        tags=["cones", "concept-neurons", "stable-diffusion"],
    )
    measured = {n: each for n, each in certificate.items() if isinstance(each, dict)}
    settings = json.dumps(concept.settings, indent=1, ensure_ascii=False)
    known = {"name": name, "concept": concept, "on_hub": on_hub, "settings": settings}
    return str(ModelCard.from_template(data, str(_TEMPLATE), measured=measured, **known))


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Say in one sentence why the hub did not do what it was asked."""
    try:
        yield
    except FileError:
        raise
    except Exception as error:  # each transport has errors of its own
        why = f"did not answer ({type(error).__name__})"
        if isinstance(error, HfHubHTTPError):
            why = f"refused ({(str(error).strip().splitlines() or ['?'])[-1][:200]})"
        if isinstance(error, _MISSING) and not isinstance(error, LocalEntryNotFoundError):
            why = "does not know it, or hides it"
        raise FileError(
            f"asked the hub for {name!r}, which {why}; expected owner/name of a concept, as "
            "'hub:me/striped-cat'; correct the name, connect, or run 'hf auth login'"
        ) from error
