package imapd

// startTLS is STARTTLS (RFC 3501, section 6.2.1). What the client sent in clear
// behind it must not count as sent under TLS: it ends the connection.
func (c *session) startTLS(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	switch {
	case c.srv.cfg.TLS == nil:
		return reply{}, no("CANNOT", "TLS is not available")
	case c.tls:
		return reply{"BAD", "", "TLS is active already"}, nil
	case c.r.Buffered() > 0:
		return reply{}, &byeError{"CLIENTBUG", "bytes after STARTTLS"}
	}
	cmd.watch.end() // nothing may be written between this and TLS
	c.writeTagged(cmd.tag, &reply{status: "OK", text: "begin TLS now"})
	if err := c.w.Flush(); err != nil {
		return reply{}, err
	}
	if err := c.handshake(); err != nil {
		return reply{}, errLogout
	}
	return reply{}, nil
}
