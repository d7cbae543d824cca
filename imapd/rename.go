package imapd

// rename is RENAME (RFC 3501, section 6.3.5). Sessions follow a mailbox by its
// ID; what they have selected stays selected.
func (c *session) rename(cmd *command) (reply, error) {
	cmd.SP()
	from := cmd.Mailbox()
	cmd.SP()
	to := cmd.Mailbox()
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	if err := c.store.RenameMailbox(c.ctx, c.account, from, to); err != nil {
		return reply{}, err
	}
	return ok("RENAME completed")
}
