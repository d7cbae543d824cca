package imapd

import (
	"strings"

	"mailnode/storage"
)

// create is CREATE (RFC 3501, section 6.3.3; RFC 6154, section 3).
func (c *session) create(cmd *command) (reply, error) {
	cmd.SP()
	name := cmd.Mailbox()
	var uses []string
	if cmd.Try(' ') {
		cmd.Expect('(')
		if !cmd.TryWord("USE") {
			cmd.Fail("USE")
		}
		cmd.SP()
		uses = cmd.FlagList()
		cmd.Expect(')')
	}
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	var use storage.SpecialUse
	if len(uses) > 0 {
		var known bool
		if use, known = specialUse(uses[0]); !known || len(uses) > 1 {
			return reply{}, no("USEATTR", "not a special use that a mailbox can have here")
		}
	}
	if _, err := c.store.CreateMailbox(c.ctx, c.account, name, use); err != nil {
		return reply{}, err
	}
	return ok("CREATE completed")
}

// specialUse finds the uses that a mailbox can have; \All and \Flagged would be
// views of other mailboxes' messages, and there are no views.
func specialUse(attr string) (storage.SpecialUse, bool) {
	for _, u := range []storage.SpecialUse{storage.UseDrafts, storage.UseSent, storage.UseJunk, storage.UseTrash, storage.UseArchive} {
		if strings.EqualFold(attr, `\`+string(u)) {
			return u, true
		}
	}
	return "", false
}
