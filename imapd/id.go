package imapd

// identify is ID (RFC 2971). The client's first fields are logged; ours say no version,
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
	if len(fields) > 0 && !c.identified {
		c.identified = true
		c.note(c.name, "imap client", "id", fields)
	}
	c.w.Str(`* ID ("name" "mailnode")`).CRLF()
	return ok("ID completed")
}
