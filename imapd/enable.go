package imapd

// enable is ENABLE (RFC 5161). Nothing that is served needs to be enabled, so
// the answer is always an empty list.
func (c *session) enable(cmd *command) (reply, error) {
	for cmd.SP(); cmd.Err() == nil; {
		cmd.Atom()
		if !cmd.Try(' ') {
			break
		}
	}
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	c.w.Str("* ENABLED").CRLF()
	return ok("ENABLE completed")
}
