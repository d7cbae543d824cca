# A slot without replicas gets one: it counts for nothing until it was at the head for 10 s.
start unprotected 100 head 100
    -> mark alone since 100
list -
change 110
marked
    -> acknowledge up to 110
list n2
connect n2 0
change 120
    -> acknowledge up to 120
ack n2 120
wait 9s
change 130
    -> acknowledge up to 130
ack n2 130
wait 3s
    -> propose protected by n2: replicas have kept up (at 11.1s)
record done
    -> clear the mark
change 140
ack n2 140
    -> acknowledge up to 140
