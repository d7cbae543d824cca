# No replica moves for ack_timeout: it is recorded, then the master goes on alone;
# when the replica has been at the head for 10 s the slot is protected again.
start protected n2 head 10
connect n2 10
change 11
    -> acknowledge up to 10
wait 2s
    -> propose unprotected since 10: no replica moves (at 3s)
change 12
record done
    -> mark alone since 10
marked
    -> acknowledge up to 12
change 13
    -> acknowledge up to 13
ack n2 13
wait 11s
    -> propose protected by n2: replicas have kept up (at 13.1s)
record done
    -> clear the mark
change 14
ack n2 14
    -> acknowledge up to 14
