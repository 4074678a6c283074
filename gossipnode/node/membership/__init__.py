"""Who is there: peers are asked, and what is heard of others is passed on (docs/membership.md).

Invariant: nothing here moves a model. It is imported only by nodes that have peers and want it.
"""
