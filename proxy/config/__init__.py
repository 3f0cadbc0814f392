"""The configuration: YAML files, the environment and flags to one checked, frozen `Config`.

    files --compose--> trees with places --include, ${...}--> one tree --overrides--> tree --validate--> Config

`load` does all of it and raises `ConfigError` with every mistake at once. `schema` (imported from
`proxy.config.schema`, since it is needed by one command only) gives the JSON Schema.
"""

from proxy.config.base import ChainName, Model, PoolName, Secret, Texts, UpstreamName
from proxy.config.load import Loaded, load
from proxy.config.match import Match, When
from proxy.config.model import ChainEntry, Config
from proxy.config.problem import ConfigError, Place, Problem

__all__ = [
    "ChainEntry",
    "ChainName",
    "Config",
    "ConfigError",
    "Loaded",
    "Match",
    "Model",
    "Place",
    "PoolName",
    "Problem",
    "Secret",
    "Texts",
    "UpstreamName",
    "When",
    "load",
]
