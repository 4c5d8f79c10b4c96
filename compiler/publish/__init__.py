"""Publishing: a deterministic archive, a detached signature, and an OCI registry.

`archive` packs and unpacks, `signature` signs and verifies, `registry` speaks HTTP, `artifact`
knows what a published bundle consists of, `command` is the command line.
"""
