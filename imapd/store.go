package imapd

import (
	"slices"

	"mailnode/storage"
)

// storeFlags is STORE and UID STORE (RFC 3501, section 6.4.6).
func (c *session) storeFlags(cmd *command) (reply, error) {
	cmd.SP()
	set := cmd.Set()
	cmd.SP()
	change := storage.FlagChange{Op: storage.FlagsReplace}
	switch {
	case cmd.Try('+'):
		change.Op = storage.FlagsAdd
	case cmd.Try('-'):
		change.Op = storage.FlagsRemove
	}
	silent := cmd.TryWord("FLAGS.SILENT")
	if !silent && !cmd.TryWord("FLAGS") {
		cmd.Fail("FLAGS or FLAGS.SILENT")
	}
	cmd.SP()
	names := parseStoreFlags(cmd)
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	var err error
	if change.Flags, err = storage.ParseFlags(names); err != nil {
		return reply{}, err
	}
	spans, err := c.view.spans(set, cmd.isUID())
	if err != nil {
		return reply{}, err
	}
	return c.applyFlags(cmd, c.view.list(spans), change, silent)
}

// parseStoreFlags parses a list, with or without its parentheses (section 9:
// store-att-flags).
func parseStoreFlags(cmd *command) []string {
	if cmd.Peek() == '(' {
		return cmd.FlagList()
	}
	flags := []string{cmd.Flag()}
	for cmd.Try(' ') {
		flags = append(flags, cmd.Flag())
	}
	return flags
}

// applyFlags works in pieces, so that a session's answer to a large STORE begins
// early and is never held whole.
//
// Of a message that another session changed in a way that this client was not
// told of yet, it is told the flags after this change, with .SILENT too: its own
// guess would be wrong (RFC 3501, section 6.4.6).
func (c *session) applyFlags(cmd *command, uids []storage.UID, change storage.FlagChange, silent bool) (reply, error) {
	vanished := false
	for piece := range slices.Chunk(uids, storage.MaxTxnRecords) {
		ms, err := c.store.SetFlags(c.ctx, c.view.ref, piece, change)
		if err != nil {
			return reply{}, err
		}
		vanished = vanished || len(ms) < len(piece)
		for i := range ms {
			if err := c.ctx.Err(); err != nil {
				return reply{}, err
			}
			m := &ms[i]
			known := c.view.knows(m.UID, m.Before)
			c.view.noteOwn(&m.Message)
			if silent && known {
				c.nameKeywords(m.Flags)
				continue
			}
			c.tellFlags(&m.Message)
			if err := c.w.FlushIfFull(); err != nil {
				return reply{}, err
			}
		}
	}
	return okVanished(cmd.verb+" completed", vanished)
}
