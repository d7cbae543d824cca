package imapd

import (
	"strconv"
)

// capabilities is what is offered in the present state. Only what is served is
// named.
func (c *session) capabilities() string {
	const always = "IMAP4rev1 LITERAL+ SASL-IR ID ENABLE"
	if c.store == nil {
		out := always
		if c.srv.cfg.TLS != nil && !c.tls {
			out += " STARTTLS"
		}
		if c.tls || c.plainLogin {
			return out + " AUTH=PLAIN"
		}
		return out + " LOGINDISABLED"
	}
	return always + " IDLE NAMESPACE CHILDREN UIDPLUS UNSELECT MOVE ESEARCH LIST-EXTENDED LIST-STATUS" +
		" SPECIAL-USE CREATE-SPECIAL-USE STATUS=SIZE APPENDLIMIT=" + strconv.FormatInt(c.srv.cfg.Limits.MessageBytesMax, 10)
}

func (c *session) capability(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	c.w.Str("* CAPABILITY ").Str(c.capabilities()).CRLF()
	return ok("CAPABILITY completed")
}

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

// identify is ID (RFC 2971). The client's fields are logged; ours say no version,
// which nobody may act on (section 1).
func (c *session) identify(cmd *command) (reply, error) {
	cmd.SP()
	var fields []string
	if !cmd.TryWord("NIL") {
		cmd.List(func() {
			if cmd.TryWord("NIL") {
				fields = append(fields, "")
				return
			}
			fields = append(fields, cmd.String())
		})
	}
	cmd.End()
	if cmd.Err() == nil && len(fields)%2 != 0 || len(fields) > 60 { // section 3.3: at most 30 pairs
		cmd.Fail("pairs of field and value, at most 30")
	}
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	if len(fields) > 0 {
		c.log().Info("imap client", "id", fields)
	}
	c.w.Str(`* ID ("name" "mailnode")`).CRLF()
	return ok("ID completed")
}

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

// namespace is NAMESPACE (RFC 2342): one personal namespace without prefix.
func (c *session) namespace(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	c.w.Str(`* NAMESPACE (("" "/")) NIL NIL`).CRLF()
	return ok("NAMESPACE completed")
}

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
	c.writeTagged(cmd.tag, &reply{status: "OK", text: "begin TLS now"})
	if err := c.w.Flush(); err != nil {
		return reply{}, err
	}
	if err := c.handshake(); err != nil {
		return reply{}, errLogout
	}
	return reply{}, nil
}
