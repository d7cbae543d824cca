# A replica that works through a large event for a minute ends nothing, and is not
# taken for dead: nothing is acknowledged without it. When it works no more it is.
start protected n2 head 10
connect n2 10
change 11
    -> acknowledge up to 10
works n2 60s
ack n2 11
    -> acknowledge up to 11
change 12
works n2 3s
wait 2s
    -> propose unprotected since 11: no replica moves (at 1m5.9s)
record done
    -> mark alone since 11
marked
    -> acknowledge up to 12
