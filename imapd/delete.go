package imapd

// oneName parses a command whose only argument is a mailbox.
func oneName(cmd *command) (string, error) {
	cmd.SP()
	name := cmd.Mailbox()
	cmd.End()
	return name, cmd.Err()
}

// delete is DELETE (RFC 3501, section 6.3.4). A session that deletes its selected
// mailbox has none selected then; other sessions there end (view.go).
func (c *session) delete(cmd *command) (reply, error) {
	name, err := oneName(cmd)
	if err != nil {
		return reply{}, err
	}
	mbox, err := c.store.Mailbox(c.ctx, c.account, name)
	if err != nil {
		return reply{}, err
	}
	if err := c.store.DeleteMailbox(c.ctx, c.account, name); err != nil {
		return reply{}, err
	}
	if c.view != nil && c.view.ref.Mailbox == mbox.ID {
		c.unselect()
	}
	return ok("DELETE completed")
}
