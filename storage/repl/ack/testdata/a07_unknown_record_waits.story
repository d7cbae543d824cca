# While Raft may have the slot as protected, nothing is acknowledged alone.
start unprotected 10 head 10
    -> mark alone since 10
marked
change 11
    -> acknowledge up to 11
connect n2 11
wait 11s
    -> propose protected by n2: replicas have kept up (at 11.1s)
record unknown
change 12
ack n2 12
    -> acknowledge up to 12
change 13
wait 1s
    -> propose protected by n2: asked for again (at 13s)
record done
    -> clear the mark
ack n2 13
    -> acknowledge up to 13
