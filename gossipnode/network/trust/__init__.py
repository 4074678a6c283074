"""Who is who: identities, the swarm's authority, bundles, revocations, and TLS made of them.

Invariant: ``cryptography`` is imported by the modules of this folder alone, and those are imported
where trust is configured or a verb makes certificates: a node without trust does not pay for it.
"""
