"""Looking what is wrong with a node's surroundings before it starts, or while it does not do well.

Invariant: nothing is changed but for a moment (a port that is free is held, a file is written and
removed), every wait has an end, and each finding that is not good says what to do about it.
"""
