"""What is learnt: params and layout, tasks, the trainer, data and its partition over nodes.

Invariant: a model is one contiguous 1-D array whose layout says what its coordinates mean.
No socket, wall clock or global randomness may enter this room.
"""
