"""All that is known about chips, clusters, models and prices: the package's data files and the user's own over them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Generic, TypeVar

from homegrown.config.errors import ConfigError
from homegrown.plan.chips import Defaults, priced, read_chip
from homegrown.plan.clusters import read_cluster
from homegrown.plan.facts import Chip, Cluster, Shape
from homegrown.plan.models import Model, Published, read_model
from homegrown.plan.prices import Prices, read_prices, read_rules
from homegrown.plan.quantity import Quantity
from homegrown.plan.reading import Entry, did_you_mean

FILES = ("chips.toml", "clusters.toml", "prices.toml", "rules.toml")
"""Data files that a folder of one's own may hold, besides `models/*.toml`."""

T = TypeVar("T")


@dataclass(frozen=True)
class Named(Generic[T]):
    """Things by name; case and punctuation do not matter, and a thing may have other names."""

    kind: str
    things: Mapping[str, T]
    aliases: Mapping[str, str]

    def find(self, name: str) -> T:
        """The thing called `name`.

        Raises:
            ConfigError: there is none; the message has the nearest name and all of them.
        """
        key = self.aliases.get(plain(name))
        if key is None:
            raise ConfigError(f"no {self.kind} {name!r}{self._hint(name)}; there are: {', '.join(sorted(self.things))}")
        return self.things[key]

    def _hint(self, name: str) -> str:
        """The shortest name that holds this one, or the one most like it."""
        holding = sorted((known for known in self.aliases if plain(name) in known), key=len)
        near = holding or get_close_matches(plain(name), self.aliases, n=1, cutoff=0.5)
        return f" (did you mean {self.aliases[near[0]]!r}?)" if near and plain(name) else ""


@dataclass(frozen=True)
class Catalogue:
    """What the planner knows.

    Attributes:
        prices: of devices and of sites.
    """

    chips: Named[Chip]
    clusters: Named[Cluster]
    models: Named[Model]
    prices: Prices = field(repr=False)

    @classmethod
    def load(cls, extra: Path | None = None) -> Catalogue:
        """The package's data, and over it that of the folder `extra`.

        An entry there with the name of one here replaces it; `like` takes over fields from another entry, or from the
        one that it replaces.

        Raises:
            ConfigError: a file is no TOML or unknown, a field is missing, misspelt, of the wrong unit or not credible.
        """
        return _packaged() if extra is None else _load((_package(), extra))

    def chip(self, name: str) -> Chip:
        """The chip called `name`."""
        return self.chips.find(name)

    def cluster(self, name: str) -> Cluster:
        """The cluster called `name`."""
        return self.clusters.find(name)

    def shape(self, name: str) -> Shape:
        """The shape of the published model called `name`."""
        return self.models.find(name).shape

    def published(self, name: str) -> Published | None:
        """The parameters that the authors of the model called `name` say it has."""
        return self.models.find(name).published

    def site(self, name: str) -> Quantity:
        """A figure of sites: see `Prices.site`."""
        return self.prices.site[name]


def plain(name: str) -> str:
    """A name as names are compared: "Llama 3.1 405B" is "llama-3.1-405b"."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


@lru_cache(maxsize=1)
def _packaged() -> Catalogue:
    return _load((_package(),))


def _package() -> Traversable:
    return resources.files("homegrown.plan") / "data"


def _load(folders: Sequence[Traversable]) -> Catalogue:
    """Everything in the folders; later ones over earlier ones."""
    for folder in folders[1:]:
        _check_folder(folder)
    default = folders[0] / "defaults.toml"
    defaults = Defaults.read(_parse(default), default.name)
    prices = read_prices(list(_files(folders, "prices.toml")))
    rules = read_rules(list(_files(folders, "rules.toml")))

    def chip(name: str, entry: Entry, like: Chip | None) -> Chip:
        found = read_chip(name, entry, like, defaults)
        return priced(found, prices.rental, prices.capital, rules.get(name, ()))

    chips = _read("chip", list(_files(folders, "chips.toml")), chip)
    _refuse_strangers("chip", chips, {"prices.toml": [*prices.rental, *prices.capital], "rules.toml": rules})

    def cluster(name: str, entry: Entry, like: Cluster | None) -> Cluster:
        return read_cluster(name, entry, like, defaults, chips.find)

    clusters = _read("cluster", list(_files(folders, "clusters.toml")), cluster)
    models = _read("model", list(_models(folders)), lambda name, entry, _: read_model(name, entry))
    return Catalogue(chips, clusters, models, prices)


def _read(
    kind: str,
    files: Sequence[tuple[str, Mapping[str, Any]]],
    read: Callable[[str, Entry, T | None], T],
) -> Named[T]:
    """Things of the tables of several files, each of which may be like another."""
    made: dict[tuple[str, int], T] = {}

    def make(name: str, layer: int, asking: tuple[str, ...]) -> T:
        """The thing called `name` in file number `layer`, or in the last one before it."""
        while layer >= 0 and name not in files[layer][1]:
            layer -= 1
        if layer < 0:
            known = sorted({other for _, table in files for other in table})
            raise ConfigError(f"{asking[-1]}.like = {name!r}: there is no such {kind}{did_you_mean(name, known)}")
        where = f"{files[layer][0]}: {name}"
        if where in asking:
            raise ConfigError(f"{where}.like: the entries {', '.join(asking)} are like one another")
        if (name, layer) not in made:
            entry = Entry(files[layer][1][name], where)
            other = entry.text("like", "")
            like = make(other, layer - (other == name), (*asking, where)) if other else None
            made[name, layer] = read(name, entry, like)
        return made[name, layer]

    names = {name: layer for layer, (_, table) in enumerate(files) for name in table}
    things = {name: make(name, layer, ()) for name, layer in names.items()}
    return Named(kind, things, _aliases(kind, {name: files[layer] for name, layer in names.items()}))


def _aliases(kind: str, origins: Mapping[str, tuple[str, Mapping[str, Any]]]) -> dict[str, str]:
    """Plain names to names, aliases among them; a name comes before another's alias."""
    found: dict[str, str] = {}
    for name, (file, _) in origins.items():
        if not plain(name):
            raise ConfigError(f"{file}: {name!r}: a name needs letters or digits")
        if found.setdefault(plain(name), name) != name:
            raise ConfigError(f"{file}: {name!r} and {found[plain(name)]!r} are the same name of a {kind}")
    for name, (file, table) in origins.items():
        for alias in table[name].get("aliases", []):
            if found.setdefault(plain(alias), name) != name:
                raise ConfigError(f"{file}: {name}.aliases: {alias!r} is a name of {found[plain(alias)]!r} already")
    return found


def _refuse_strangers(kind: str, known: Named[Any], named: Mapping[str, Iterable[str]]) -> None:
    """A price or a rule of a chip that there is not would be ignored silently."""
    for file, names in named.items():
        for name in names:
            if name not in known.things:
                raise ConfigError(f"{file}: there is no {kind} {name!r}{did_you_mean(name, known.things)}")


def _files(folders: Sequence[Traversable], name: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for folder in folders:
        if (file := folder / name).is_file():
            yield name if folder is folders[0] else str(file), _parse(file)


def _models(folders: Sequence[Traversable]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each model is a file: its name is the file's, its table the whole file."""
    for folder in folders:
        models = folder / "models"
        for file in sorted(models.iterdir(), key=lambda file: file.name) if models.is_dir() else ():
            if file.name.endswith(".toml"):
                where = f"models/{file.name}" if folder is folders[0] else str(file)
                yield where, {file.name.removesuffix(".toml"): _parse(file)}


def _check_folder(folder: Traversable) -> None:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder of data files")
    known = f"known are {', '.join(FILES)} and models/*.toml"
    found = [file.name for file in folder.iterdir() if file.name.endswith(".toml")]
    for name in found:
        if name not in FILES:
            raise ConfigError(f"{folder / name}: no such data file{did_you_mean(name, FILES)}; {known}")
    if not found and not (folder / "models").is_dir():
        raise ConfigError(f"{folder}: holds no data file; {known}")


def _parse(file: Traversable) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from None
