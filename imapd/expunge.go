package imapd

import "mailnode/storage"

// expunge is EXPUNGE (RFC 3501, section 6.4.3).
func (c *session) expunge(cmd *command) (reply, error) {
	if cmd.End(); cmd.Err() != nil {
		return reply{}, cmd.Err()
	}
	return c.expungeUIDs(cmd, nil)
}

// uidExpunge is UID EXPUNGE (RFC 4315, section 2.1).
func (c *session) uidExpunge(cmd *command) (reply, error) {
	cmd.SP()
	set := cmd.Set()
	cmd.End()
	if err := cmd.Err(); err != nil {
		return reply{}, err
	}
	spans, err := c.view.spans(set, true)
	if err != nil {
		return reply{}, err
	}
	uids := c.view.list(spans)
	if len(uids) == 0 {
		return ok("UID EXPUNGE completed") // to the store no list means all
	}
	return c.expungeUIDs(cmd, uids)
}

// expungeUIDs tells what it removed at once. A UID that this session was never
// shown is passed over by tellExpunged.
func (c *session) expungeUIDs(cmd *command, uids []storage.UID) (reply, error) {
	gone, err := c.store.Expunge(c.ctx, c.view.ref, uids)
	c.tellExpunged(gone)
	if err != nil {
		return reply{}, err
	}
	return ok(cmd.verb + " completed")
}
