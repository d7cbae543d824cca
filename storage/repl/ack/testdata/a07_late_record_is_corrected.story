# A record that was proposed by an earlier process came true late: it is noticed,
# and made good once the replica has been at the head.
start protected n2 head 10
connect n2 10
raft unprotected 5
    -> mark alone since 10
marked
wait 11s
    -> propose protected by n2: replicas have kept up (at 11.1s)
record done
    -> clear the mark
wait 20s
