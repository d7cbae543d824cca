# n2 is to be dropped and n3 has just come: until n3 has kept up and Raft has it, n2 counts.
start protected n2 head 100
connect n2 100
list n2,n3 leaving n2
connect n3 40
change 110
    -> acknowledge up to 100
ack n2 110
    -> acknowledge up to 110
ack n3 110
wait 12s
    -> propose protected by n2,n3: replicas have come or gone (at 11.1s)
record done
    -> propose protected by n3: replicas have come or gone
wait 200ms
record done
    -> drop n2
dropped done
change 120
ack n2 120
ack n3 120
    -> acknowledge up to 120
