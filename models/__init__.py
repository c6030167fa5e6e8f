"""Reference networks: a factory `name(batch)` gives a seeded (model, inputs), `name_net(...)` the bare network."""
