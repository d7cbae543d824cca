package imapd

import (
	"github.com/emersion/go-imap/v2"

	"mailnode/storage"
)

// status is STATUS (RFC 3501, section 6.3.10; RFC 8438).
func (c *session) status(cmd *command) (reply, error) {
	cmd.SP()
	name := cmd.Mailbox()
	cmd.SP()
	items := parseStatusItems(cmd)
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	mbox, err := c.store.Mailbox(c.ctx, c.account, name)
	if err != nil {
		return reply{}, err
	}
	c.writeStatus(&mbox, items)
	return ok("STATUS completed")
}

func parseStatusItems(cmd *command) *imap.StatusOptions {
	var o imap.StatusOptions
	cmd.List(func() {
		switch item := cmd.Keyword(); item {
		case "MESSAGES":
			o.NumMessages = true
		case "RECENT":
			o.NumRecent = true
		case "UIDNEXT":
			o.UIDNext = true
		case "UIDVALIDITY":
			o.UIDValidity = true
		case "UNSEEN":
			o.NumUnseen = true
		case "SIZE":
			o.Size = true
		case "APPENDLIMIT":
			o.AppendLimit = true
		default:
			cmd.Fail("a status item, not %s", item)
		}
	})
	if o == (imap.StatusOptions{}) {
		cmd.Fail("at least one status item")
	}
	return &o
}

func (c *session) writeStatus(mbox *storage.Mailbox, o *imap.StatusOptions) {
	c.w.Str("* STATUS ").Mailbox(mbox.Name).Str(" (")
	sep := ""
	item := func(wanted bool, name string, n uint64) {
		if wanted {
			c.w.Str(sep).Str(name).Byte(' ').Uint(n)
			sep = " "
		}
	}
	item(o.NumMessages, "MESSAGES", uint64(mbox.Messages))
	item(o.NumRecent, "RECENT", 0)
	item(o.UIDNext, "UIDNEXT", uint64(mbox.UIDNext))
	item(o.UIDValidity, "UIDVALIDITY", uint64(mbox.UIDValidity))
	item(o.NumUnseen, "UNSEEN", uint64(mbox.Unseen))
	item(o.Size, "SIZE", uint64(max(mbox.Bytes, 0)))
	item(o.AppendLimit, "APPENDLIMIT", uint64(c.srv.cfg.Limits.MessageBytesMax))
	c.w.Str(")").CRLF()
}
