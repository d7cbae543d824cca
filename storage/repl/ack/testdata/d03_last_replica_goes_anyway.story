# A person drops the only replica: the slot is recorded as unprotected before it goes, and
# what is changed then waits for nobody.
start protected n2 head 100
list n2
connect n2 100
wait 2s
change 110
    -> acknowledge up to 100
ack n2 110
    -> acknowledge up to 110
list n2 anyway n2
    -> propose unprotected since 110: ack = "local", or no replicas
change 120
record done
    -> mark alone since 110
    -> drop n2
marked
    -> acknowledge up to 120
dropped done
change 130
    -> acknowledge up to 130
