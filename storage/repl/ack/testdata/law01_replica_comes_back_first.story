# Alone without a quorum; the replica comes back first and keeps up for 10 s: what
# Raft has is true again, and changes wait for the replica.
start protected n2 head 10
connect n2 10
gone n2
change 11
    -> acknowledge up to 10
wait 2s
    -> propose unprotected since 10: no replica moves (at 3s)
record unsent
wait 2s
    -> propose unprotected since 10: no replica moves (at 4s)
    -> mark alone since 10 (at 5s)
marked
    -> acknowledge up to 11
record unsent
connect n2 11
wait 11s
    -> propose unprotected since 10: acknowledged alone (at 6s)
    -> clear the mark (at 15.1s)
record unsent
change 12
ack n2 12
    -> acknowledge up to 12
