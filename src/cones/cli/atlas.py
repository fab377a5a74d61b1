"""``cones atlas``: one web page that shows where concepts lie and what they share."""

from pathlib import Path

from cones.cli import options, outputs


def atlas(
    *,
    files: options.Files,
    output: options.File = Path("atlas.html"),
    density: options.Density = None,
    saving: outputs.Saving,
) -> None:
    """Write one web page: certificates, layers and heads, and what concepts share.

    The page needs no network.

    **Example:**  cones atlas cat.safetensors jar.safetensors -o atlas.html
    """
    from cones.atlas import page
    from cones.files import write_atomic

    saving.require_file(output)
    concepts = options.load_concepts(files, density=density)
    write_atomic(output, page(concepts, [path.name for path in files]).encode())
    size = output.stat().st_size
    saving.tell(f"open {output} ({size / 1000:.0f} kB) in a browser", {"page": str(output)})
