package imapd

// identify is ID (RFC 2971). The client's first fields are logged; ours say no version,
// which nobody may act on (section 1).
func (c *session) identify(cmd *command) (reply, error) {
	fields, err := parseID(cmd)
	if err != nil {
		return reply{}, err
	}
	if len(fields) > 0 && !c.identified {
		c.identified = true
		c.log().Info("imap client", "id", fields)
	}
	c.w.Str(`* ID ("name" "mailnode")`).CRLF()
	return ok("ID completed")
}

// The limits of RFC 2971, section 3.3.
const (
	idPairsMax      = 30
	idFieldBytesMax = 30
	idValueBytesMax = 1024
)

// parseID parses id_params_list (RFC 2971, section 4) into fields and values in
// turn. NIL as a value is "".
func parseID(cmd *command) (fields []string, err error) {
	cmd.SP()
	if !cmd.TryWord("NIL") {
		cmd.List(func() {
			isValue := len(fields)%2 == 1
			if isValue && cmd.TryWord("NIL") {
				fields = append(fields, "")
				return
			}
			s := cmd.String()
			if isValue && len(s) > idValueBytesMax || !isValue && len(s) > idFieldBytesMax {
				cmd.Fail("fields of at most %d bytes with values of at most %d", idFieldBytesMax, idValueBytesMax)
			}
			if fields = append(fields, s); len(fields) > 2*idPairsMax {
				cmd.Fail("at most %d pairs of field and value", idPairsMax)
			}
		})
	}
	cmd.End()
	if len(fields)%2 != 0 {
		cmd.Fail("a value for each field")
	}
	return fields, cmd.Err()
}
