# The record is refused because the epoch has ended: that is no lost quorum.
start protected n2 head 10
connect n2 10
gone n2
change 11
    -> acknowledge up to 10
wait 2s
    -> propose unprotected since 10: no replica moves (at 3s)
over
    -> end
wait 5s
