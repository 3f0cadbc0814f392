"""Everything between a chain and a provider: transport, attempts, keys, breakers, classification, health."""
