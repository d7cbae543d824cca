package imapd

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mailnode/imapd/wire"
	"mailnode/storage"
)

// target marks an error as about the mailbox that a message was to go to: when
// there is none, the client may create it (RFC 3501, section 6.4.7).
func (c *session) target(err error) error {
	if !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return fmt.Errorf("%w: %w", errTarget, err)
}

func (c *session) parseCopy(cmd *command) (uids []storage.UID, to string, err error) {
	cmd.SP()
	set := cmd.Set()
	cmd.SP()
	to = cmd.Mailbox()
	cmd.End()
	if err := cmd.Err(); err != nil {
		return nil, "", err
	}
	spans, err := c.view.spans(set, cmd.isUID())
	if err != nil {
		return nil, "", err
	}
	return c.view.list(spans), to, nil
}

// copy is COPY and UID COPY (RFC 3501, section 6.4.7; RFC 4315, section 3).
func (c *session) copy(cmd *command) (reply, error) {
	uids, to, err := c.parseCopy(cmd)
	if err != nil {
		return reply{}, err
	}
	copied, err := c.transfer(uids, to, c.store.Copy)
	if err != nil {
		return reply{}, err
	}
	if len(copied.To) == 0 {
		return okVanished(cmd.verb+" completed", len(uids) > 0)
	}
	return reply{"OK", copyUID(copied), cmd.verb + " completed"}, nil
}

// move is MOVE and UID MOVE (RFC 6851, section 3). COPYUID comes before the
// EXPUNGEs (section 4.3), in an untagged OK.
func (c *session) move(cmd *command) (reply, error) {
	uids, to, err := c.parseCopy(cmd)
	if err != nil {
		return reply{}, err
	}
	moved, err := c.transfer(uids, to, c.store.Move)
	if err != nil {
		return reply{}, err
	}
	if len(moved.To) == 0 {
		return okVanished(cmd.verb+" completed", len(uids) > 0)
	}
	c.w.Str("* OK [").Str(copyUID(moved)).Str("] moved").CRLF()
	gone := slices.Clone(moved.From)
	slices.Sort(gone)
	c.tellExpunged(gone)
	return ok(cmd.verb + " completed")
}

func (c *session) transfer(uids []storage.UID, to string,
	do func(ctx context.Context, r storage.Ref, uids []storage.UID, to string) (storage.Copied, error)) (storage.Copied, error) {
	if len(uids) == 0 {
		// Nothing to do, but a missing target must still be said.
		_, err := c.store.Mailbox(c.ctx, c.account, to)
		return storage.Copied{}, c.target(err)
	}
	got, err := do(c.ctx, c.view.ref, uids, to)
	return got, c.target(err)
}

func copyUID(copied storage.Copied) string {
	out := append([]byte("COPYUID "), fmt.Sprint(uint32(copied.UIDValidity))...)
	out = wire.AppendNums(append(out, ' '), copied.From)
	out = wire.AppendNums(append(out, ' '), copied.To)
	return string(out)
}
