# ack = "replica" became "local" in the same epoch: Raft is told before the first
# acknowledgement under it.
start again local protected n2 head 10
    -> propose unprotected since 10: ack = "local", or no replicas
change 11
record done
    -> mark alone since 10
marked
    -> acknowledge up to 11
change 12
    -> acknowledge up to 12
