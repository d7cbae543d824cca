# A master that starts again without a quorum, because a person lets it: it goes on
# alone and marked, although Raft may have it as protected, and has that recorded
# when there is a quorum again.
start again ordered protected n2 head 10
    -> propose unprotected since 10: acknowledged alone
    -> mark alone since 10
change 11
marked
    -> acknowledge up to 11
change 12
    -> acknowledge up to 12
record unsent
wait 2s
    -> propose unprotected since 10: acknowledged alone (at 2s)
raft protected n2
record done
