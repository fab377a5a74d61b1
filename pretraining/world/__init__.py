"""A small drawn world: sixteen kinds of thing in ten places, with exact captions and masks."""
