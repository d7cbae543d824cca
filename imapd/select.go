package imapd

import (
	"errors"
	"slices"
	"strings"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// keywordsShownMax bounds FLAGS; a mailbox may use more keywords than are named.
const keywordsShownMax = 1000

func (c *session) selectMailbox(cmd *command) (reply, error) { return c.open(cmd, false) }

func (c *session) examine(cmd *command) (reply, error) { return c.open(cmd, true) }

// open is SELECT and EXAMINE (RFC 3501, sections 6.3.1 and 6.3.2).
func (c *session) open(cmd *command, readOnly bool) (reply, error) {
	cmd.SP()
	name := cmd.Mailbox()
	cmd.End()
	err := cmd.Err()
	if syntax := (*wire.SyntaxError)(nil); errors.As(err, &syntax) {
		return reply{}, err // no SELECT at all
	}
	// One that fails leaves no mailbox selected, whatever is wrong with the name.
	c.unselect()
	if err != nil {
		return reply{}, err
	}
	mbox, err := c.store.Mailbox(c.ctx, c.account, name)
	if err != nil {
		return reply{}, err
	}
	v := &view{ref: storage.Ref{Account: c.account, Mailbox: mbox.ID}, name: mbox.Name, readOnly: readOnly,
		keywords: map[string]string{}}
	// Watched first, then looked at once more: a change after the second look is
	// signalled, one before it is in the numbers told.
	v.changed, v.stop = c.store.Watch(v.ref)
	if mbox, err = c.store.MailboxByID(c.ctx, v.ref); err != nil {
		v.stop()
		return reply{}, err
	}
	v.since = mbox.HighestModSeq
	firstUnseen, err := c.fillView(v, mbox)
	if err != nil {
		v.stop()
		return reply{}, err
	}
	c.view = v
	c.writeFlagsList()
	c.w.Str("* ").Uint(uint64(len(v.uids))).Str(" EXISTS").CRLF()
	c.w.Str("* 0 RECENT").CRLF()
	if firstUnseen > 0 {
		c.w.Str("* OK [UNSEEN ").Uint(uint64(firstUnseen)).Str("] first unseen message").CRLF()
	}
	c.w.Str("* OK [UIDVALIDITY ").Uint(uint64(mbox.UIDValidity)).Str("] UIDs valid").CRLF()
	c.w.Str("* OK [UIDNEXT ").Uint(uint64(mbox.UIDNext)).Str("] next UID").CRLF()
	if readOnly {
		return reply{"OK", "READ-ONLY", "EXAMINE completed"}, nil
	}
	return reply{"OK", "READ-WRITE", "SELECT completed"}, nil
}

// fillView reads the UIDs below mbox.UIDNext; later ones come as changes.
func (c *session) fillView(v *view, mbox storage.Mailbox) (firstUnseen int, err error) {
	v.maxUID = max(mbox.UIDNext, 1) - 1
	if v.uids, err = c.store.UIDs(c.ctx, v.ref); err != nil {
		return 0, err
	}
	n, _ := v.index(v.maxUID + 1)
	v.uids, v.shared = v.uids[:n:n], true
	err = c.store.Scan(c.ctx, v.ref, 1, v.maxUID, func(m storage.Message) error {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if firstUnseen == 0 && !m.Flags.Has(storage.Seen) {
			i, found := v.index(m.UID)
			if found {
				firstUnseen = i + 1
			}
		}
		if len(m.Flags.Keywords) > 0 {
			v.newKeywords(m.Flags)
		}
		return nil
	})
	return firstUnseen, err
}

// writeFlagsList writes FLAGS and PERMANENTFLAGS. After EXAMINE nothing is
// permanent.
func (c *session) writeFlagsList() {
	names := make([]string, 0, len(systemFlags)+len(c.view.keywords)+1)
	for _, s := range systemFlags {
		names = append(names, s.name)
	}
	words := make([]string, 0, len(c.view.keywords))
	for _, k := range c.view.keywords {
		words = append(words, k)
	}
	slices.SortFunc(words, strings.Compare)
	names = append(names, words...)
	c.w.Str("* FLAGS ").Words(names).CRLF()
	if c.view.readOnly {
		c.w.Str("* OK [PERMANENTFLAGS ()] read-only").CRLF()
		return
	}
	c.w.Str("* OK [PERMANENTFLAGS ").Words(append(names, `\*`)).Str("] flags are kept").CRLF()
}

// unselect forgets the selected mailbox.
func (c *session) unselect() {
	if c.view != nil {
		c.view.stop()
		c.view = nil
	}
}

// unselectMailbox is UNSELECT (RFC 3691).
func (c *session) unselectMailbox(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	c.unselect()
	return ok("UNSELECT completed")
}

// closeMailbox is CLOSE: it expunges without telling (RFC 3501, section 6.4.2).
func (c *session) closeMailbox(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	if !c.view.readOnly {
		if _, err := c.store.Expunge(c.ctx, c.view.ref, nil); err != nil {
			return reply{}, err
		}
	}
	c.unselect()
	return ok("CLOSE completed")
}
