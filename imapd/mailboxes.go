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
// views of other mailboxes' messages, which there are none of.
func specialUse(attr string) (storage.SpecialUse, bool) {
	for _, u := range []storage.SpecialUse{storage.UseDrafts, storage.UseSent, storage.UseJunk, storage.UseTrash, storage.UseArchive} {
		if strings.EqualFold(attr, `\`+string(u)) {
			return u, true
		}
	}
	return "", false
}

// oneName parses a command whose only argument is a mailbox.
func oneName(cmd *command) (string, error) {
	cmd.SP()
	name := cmd.Mailbox()
	cmd.End()
	return name, cmd.Err()
}

// delete is DELETE (RFC 3501, section 6.3.4). Who deletes the mailbox that he
// has selected has none selected any more; other sessions there end (view.go).
func (c *session) delete(cmd *command) (reply, error) {
	name, err := oneName(cmd)
	if err != nil {
		return reply{}, err
	}
	mbox, err := c.store.Mailbox(c.ctx, c.account, name)
	if err != nil {
		return reply{}, err
	}
	if err := c.store.DeleteMailbox(c.ctx, c.account, name); err != nil {
		return reply{}, err
	}
	if c.view != nil && c.view.ref.Mailbox == mbox.ID {
		c.unselect()
	}
	return ok("DELETE completed")
}

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

// subscribe is SUBSCRIBE (RFC 3501, section 6.3.6). The mailbox need not exist:
// a client may subscribe what it is about to create.
func (c *session) subscribe(cmd *command) (reply, error) { return c.setSubscribed(cmd, true) }

func (c *session) unsubscribe(cmd *command) (reply, error) { return c.setSubscribed(cmd, false) }

func (c *session) setSubscribed(cmd *command, on bool) (reply, error) {
	name, err := oneName(cmd)
	if err != nil {
		return reply{}, err
	}
	if err := c.store.Subscribe(c.ctx, c.account, name, on); err != nil {
		return reply{}, err
	}
	return ok(cmd.verb + " completed")
}
