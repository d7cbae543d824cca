package imapd

// subscribe is SUBSCRIBE (RFC 3501, section 6.3.6). The mailbox need not exist:
// a client may subscribe what it is about to create.
func (c *session) subscribe(cmd *command) (reply, error) { return c.setSubscribed(cmd, true) }

func (c *session) unsubscribe(cmd *command) (reply, error) { return c.setSubscribed(cmd, false) }

func (c *session) setSubscribed(cmd *command, on bool) (reply, error) {
	name, err := oneName(cmd)
	if err != nil {
		return reply{}, err
	}
	if err := c.store.Subscribe(c.ctx, c.account, name, on); err != nil {
		return reply{}, err
	}
	return ok(cmd.verb + " completed")
}
