# A master to whom the slot was handed over is protected from the start. Once all of
# those have the epoch's first event it has that recorded: from then on a copy that
# lacks the epoch is known to have lost it.
start protected n2,n3 begins 11 head 10
connect n3 10
change 12
    -> acknowledge up to 10
ack n3 12
    -> acknowledge up to 12
wait 1s
connect n2 10
wait 1s
ack n2 11
wait 100ms
    -> propose protected by n2,n3: the epoch has begun (at 3.1s)
record done
change 13
ack n2 13
    -> acknowledge up to 13
wait 20s
    -> propose protected by n2: replicas have come or gone (at 11s)

# Who does not come is left out.
start protected n2,n3 begins 11 head 10
connect n3 10
ack n3 11
wait 12s
    -> propose protected by n3: replicas have come or gone (at 34.1s)
record done
wait 1s
