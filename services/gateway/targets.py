"""The target models that are served, as the gateway knows them: by their names, with their text."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from services.gateway.errors import NotFoundError
from services.gateway.text import TextModel
from shared import served
from shared.errors import ModelError
from shared.log import Complaint

logger = logging.getLogger(__name__)


class Targets:
    """Those of a folder that is one target, or lists several."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[Path, int], TextModel] = {}
        self._texts: dict[str, TextModel] = {}
        """In the order of the list: the first serves requests that name none."""
        self._complaint = Complaint(logger, "the models that are served stay as they were")

    @property
    def all(self) -> list[TextModel]:
        return list(self._texts.values())

    @property
    def names(self) -> list[str]:
        return list(self._texts)

    def find(self, name: str | None) -> TextModel:
        """The one of this name, or the first. Raises NotFoundError."""
        if not self._texts:
            raise NotFoundError("no model is served at present")
        wanted = next(iter(self._texts)) if name is None else name
        if wanted not in self._texts:
            there = ", ".join(self._texts)
            raise NotFoundError(f"model {wanted[:100]!r} does not exist; there is {there}")
        return self._texts[wanted]

    async def load(self) -> None:
        """Reads what is new. Raises ModelError, and all stays as it was."""
        listed = await asyncio.to_thread(served.read, self._folder)
        read: dict[tuple[Path, int], TextModel] = {}
        for target in listed:
            key = target.folder, target.stamp
            if key in self._read:
                read[key] = self._read[key]
            else:
                read[key] = await asyncio.to_thread(TextModel, target.folder)
        self._read = read
        self._texts = {text.manifest.name: text for text in read.values()}

    async def refresh(self) -> None:
        """The same while serving: what is wrong is told once."""
        try:
            await self.load()
            self._complaint.over()
        except ModelError as error:
            self._complaint.about(error)
