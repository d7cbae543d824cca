# n2 was dropped and is listed again while its stream still stands: what it says on that
# counts for nothing.
start protected n2,n3 head 100
connect n2 100
connect n3 100
wait 2s
list n3 
    -> propose protected by n3: replicas have come or gone
list n2,n3
change 110
    -> acknowledge up to 100
ack n2 110
    -> acknowledge up to 110
wait 12s
ack n3 110
connect n2 100
ack n2 110
