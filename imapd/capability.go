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
