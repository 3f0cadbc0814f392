"""llm-sidecar: an OpenAI-compatible proxy whose every call runs through a chain of policies.

The words used throughout:

exchange   one call and its answer; the one object that travels
policy     one rule with a name and options; a class in ``proxy.policies``, an entry in a chain
chain      an ordered list of policies; requests go down the list, answers come back up it
route      a match that picks a chain and an upstream
upstream   a provider endpoint: its dialect family, base URL, key pool, timeouts
target     an upstream and a model
attempt    one request sent to one target with one key
flight     the work below a cache, shared by everyone who waits for the same answer
dialect    where one wire API keeps its texts, tool arguments, usage, deltas and errors
principal  who calls
snapshot   everything built from one version of the configuration; swapped whole on reload
"""

__version__ = "0.1.0"
