"""Say things in the host's language; the texts are data (``texts.toml``)."""

import tomllib
from functools import cache
from importlib import resources
from typing import Final

LOCALES: Final = ("en-US", "fr-FR", "de-DE", "ja-JP")


@cache
def _table() -> dict[str, dict[str, str]]:
    text = resources.files("vmkeep_lab.host").joinpath("texts.toml").read_text("utf-8")
    return tomllib.loads(text)


class Texts:
    """What one host says; every text in its one language."""

    def __init__(self, locale: str) -> None:
        if locale not in LOCALES:
            raise ValueError(f"no texts in {locale!r}; there are {', '.join(LOCALES)}")
        self._locale: Final = locale

    def say(self, key: str, **filling: object) -> str:
        """Return a text with its places filled; KeyError for one that does not exist."""
        return _table()[key][self._locale].format(**filling)
