package imapd

// noop is NOOP and CHECK: a look at the store, whether it signalled or not.
func (c *session) noop(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	if c.view != nil {
		c.view.poll = true
	}
	return ok(cmd.verb + " completed")
}
