"""One photograph: opened with what is known of it, inverted once, edited any number of times.

- A photograph with its prompt and priors, as a model sees it: :func:`open_photo`; kept as ``data=folder``:
  :func:`save_photo`.
- Its inversion, found again where it has been made, and its edits: :class:`PhotoRun`; an edit at the photograph's own
  size: :func:`composite`.
- Edits as a command and as Python: :class:`PhotoEdit`, :func:`command_of`, :func:`snippet_of`.
"""

from locinv_pl.photo.composite import composite
from locinv_pl.photo.run import PhotoRun
from locinv_pl.photo.sample import Photo, open_photo, save_photo
from locinv_pl.photo.snippets import PhotoEdit, command_of, snippet_of

__all__ = ["Photo", "PhotoEdit", "PhotoRun", "command_of", "composite", "open_photo", "save_photo", "snippet_of"]
