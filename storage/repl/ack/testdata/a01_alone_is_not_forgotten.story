# A master goes on alone without a quorum and is restarted. What it acknowledged
# alone is marked in its copy, and Raft is told before anything else.
start protected n2 head 10
connect n2 10
change 11
    -> acknowledge up to 10
ack n2 11
    -> acknowledge up to 11
gone n2
change 12
wait 2s
    -> propose unprotected since 11: no replica moves (at 3s)
record unknown
wait 2s
    -> propose unprotected since 11: no replica moves (at 4s)
    -> mark alone since 11 (at 5s)
marked
    -> acknowledge up to 12
# Power fails; the mark is read at the next start. Raft still says protected.
start again alone 11 protected n2 head 12
    -> propose unprotected since 11: acknowledged alone
change 13
record done
    -> acknowledge up to 13
