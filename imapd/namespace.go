package imapd

// namespace is NAMESPACE (RFC 2342): one personal namespace without prefix.
func (c *session) namespace(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	c.w.Str(`* NAMESPACE (("" "/")) NIL NIL`).CRLF()
	return ok("NAMESPACE completed")
}
