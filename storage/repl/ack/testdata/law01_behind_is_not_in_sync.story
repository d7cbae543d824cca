# A restarted master knows nobody yet: a replica that is behind does not take the
# place of the one that may hold the rest.
start protected n2,n3 head 10
connect n3 5
wait 15s
