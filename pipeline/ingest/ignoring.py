"""What ``.ragignore`` files keep out of an ingest. Their syntax is that of ``.gitignore``."""

from __future__ import annotations

import os
from dataclasses import dataclass

import pathspec

from pipeline.errors import BadSettings
from pipeline.ingest.origins import encode_path

NAME = ".ragignore"


@dataclass(frozen=True)
class Rules:
    """The rules of one folder over those of the folders above it."""

    folder: str
    spec: pathspec.GitIgnoreSpec
    above: Rules | None

    def ignores(self, path: str) -> bool:
        """Whether ``path``, below the folder and ending with a slash if it is one itself, is to be passed over: the
        nearest file that says anything about it decides.
        """
        said = self.spec.check_file(path[len(self.folder) :].lstrip("/")).include
        if said is None:
            return self.above is not None and self.above.ignores(path)
        return said


def rules_of(folder: str, above: Rules | None) -> Rules | None:
    """The rules that hold in ``folder``. Raises OSError for a file of rules that can't be read, and BadSettings for one
    that makes no sense: to go on would let in what was to stay out.
    """
    path = os.path.join(folder, NAME)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return above
    try:
        spec = pathspec.GitIgnoreSpec.from_lines(lines)
    except ValueError as error:
        cause = " ".join(str(error).split()).rstrip(".")
        raise BadSettings(f"{encode_path(path)}: {cause}.", "It takes the syntax of .gitignore.") from None
    return Rules(folder, spec, above)
