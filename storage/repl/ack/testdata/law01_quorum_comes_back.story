# Alone without a quorum; the quorum comes back before the replica does: Raft is
# told what is true.
start protected n2 head 10
connect n2 10
gone n2
change 11
    -> acknowledge up to 10
wait 2s
    -> propose unprotected since 10: no replica moves (at 3s)
record unknown
wait 2s
    -> propose unprotected since 10: no replica moves (at 4s)
    -> mark alone since 10 (at 5s)
marked
    -> acknowledge up to 11
change 12
    -> acknowledge up to 12
wait 1s
record done
change 13
    -> acknowledge up to 13
