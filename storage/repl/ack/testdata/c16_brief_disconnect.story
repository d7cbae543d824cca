# Under steady load a replica's connection breaks for a moment: it is given
# ack_timeout from its last progress.
start protected n2 head 10
connect n2 10
change 11
    -> acknowledge up to 10
wait 500ms
ack n2 11
    -> acknowledge up to 11
change 12
wait 500ms
ack n2 12
    -> acknowledge up to 12
change 13
gone n2
wait 1s
connect n2 12
ack n2 13
    -> acknowledge up to 13
change 14
wait 1900ms
ack n2 14
    -> acknowledge up to 14
