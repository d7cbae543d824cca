# A node that Raft does not list may say what it wants.
start protected n2 head 10
connect n9 10
change 11
ack n9 11
connect n2 10
    -> acknowledge up to 10
ack n2 11
    -> acknowledge up to 11
