"""What a commit asks for, before it is known whether it can have it."""

from __future__ import annotations

from dataclasses import dataclass, field

from catalog.artifacts.staging import Staged


@dataclass(frozen=True, slots=True)
class AddSmall:
    """A file whose content came inside the commit; `git_oid` is the git sha1 of the content."""

    path: str
    staged: Staged
    git_oid: str


@dataclass(frozen=True, slots=True)
class AddLarge:
    """A file whose content was uploaded before, named by sha256; a copied one comes without a size."""

    path: str
    sha256: str
    size_bytes: int | None


@dataclass(frozen=True, slots=True)
class Delete:
    """A file or a folder (`kind`: `file` or `directory`) to remove."""

    path: str
    kind: str


@dataclass(slots=True)
class CommitRequest:
    """A title, a longer message, the head the client believes in, and the changes in their order."""

    title: str = ""
    description: str = ""
    parent: str | None = None
    small: list[AddSmall] = field(default_factory=list)
    large: list[AddLarge] = field(default_factory=list)
    deletes: list[Delete] = field(default_factory=list)

    @property
    def message(self) -> str:
        """Return title and description as git writes them."""
        return f"{self.title}\n\n{self.description}" if self.description else self.title

    def discard(self) -> None:
        """Remove what is left of the staged content."""
        for change in self.small:
            change.staged.discard()
