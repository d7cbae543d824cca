package imapd

func (c *session) logout(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	c.w.Str("* BYE logging out").CRLF()
	c.writeTagged(cmd.tag, &reply{status: "OK", text: "LOGOUT completed"})
	if err := c.w.Flush(); err != nil {
		return reply{}, err
	}
	return reply{}, errLogout
}
