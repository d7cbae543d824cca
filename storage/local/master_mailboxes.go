package local

import (
	"context"
	"fmt"
	"sort"
	"strings"

	"mailnode/storage"
	"mailnode/storage/event"
)

// showMailbox returns a mailbox as clients see it.
func (m *Master) showMailbox(r reader, a *event.AccountRecord, b *event.MailboxRecord) (storage.Mailbox, error) {
	var st event.MailboxStats
	if _, err := event.Load(r, event.StatsKey(b.Ref()), &st); err != nil {
		return storage.Mailbox{}, err
	}
	return m.shown(a, b, &st), nil
}

func (m *Master) shown(a *event.AccountRecord, b *event.MailboxRecord, st *event.MailboxStats) storage.Mailbox {
	return storage.Mailbox{
		ID: storage.MailboxID(b.Id), Name: b.Name, UIDValidity: storage.UIDValidity(b.Uidvalidity),
		UIDNext: event.UIDNext(b, m.unclean), HighestModSeq: max(storage.ModSeq(st.HighestModseq), m.shownFloor(a)),
		SpecialUse: storage.SpecialUse(b.SpecialUse), Messages: st.Messages, Unseen: st.Unseen, Deleted: st.Deleted, Bytes: st.Bytes,
	}
}

// Mailboxes implements storage.Mailboxes.
func (m *Master) Mailboxes(ctx context.Context, id storage.AccountID) ([]storage.Mailbox, error) {
	var out []storage.Mailbox
	err := m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err != nil {
			return err
		}
		return each(v, event.MailboxesOf(id), func(_, value []byte) error {
			b := &event.MailboxRecord{}
			if err := unmarshal(value, b); err != nil || b.Deleted {
				return err
			}
			box, err := m.showMailbox(v, a, b)
			out = append(out, box)
			return err
		})
	})
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, err
}

// Mailbox implements storage.Mailboxes.
func (m *Master) Mailbox(ctx context.Context, id storage.AccountID, name string) (storage.Mailbox, error) {
	return m.mailbox(ctx, id, func(v *view) (*event.MailboxRecord, error) { return mailboxByName(v, id, name) })
}

// MailboxByID implements storage.Mailboxes.
func (m *Master) MailboxByID(ctx context.Context, r storage.Ref) (storage.Mailbox, error) {
	return m.mailbox(ctx, r.Account, func(v *view) (*event.MailboxRecord, error) { return loadMailbox(v, r) })
}

func (m *Master) mailbox(ctx context.Context, id storage.AccountID, find func(*view) (*event.MailboxRecord, error)) (box storage.Mailbox, err error) {
	err = m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err != nil {
			return err
		}
		b, err := find(v)
		if err != nil {
			return err
		}
		box, err = m.showMailbox(v, a, b)
		return err
	})
	return box, err
}

// newMailbox makes a record with a UIDVALIDITY from the account's counter,
// which the caller's event must carry too.
func (m *Master) newMailbox(t *txn, a *event.AccountRecord, name string, use storage.SpecialUse) (*event.MailboxRecord, error) {
	m.mailboxes.made(storage.AccountID(a.Id), 1)
	b := &event.MailboxRecord{Account: a.Id, Id: randomID(), Name: name, SpecialUse: string(use), Changed: m.modSeq(t, a), Born: uint64(m.next(t))}
	if !event.NewUIDValidity(a, b, m.unclean) {
		return nil, storage.Errorf(storage.ErrLimit, "create mailbox %q: the account has used up its UIDVALIDITY range", name)
	}
	return b, nil
}

// missingParents makes the levels above a name that do not exist (RFC 3501,
// sections 6.3.3 and 6.3.5); made holds names that the same event makes.
func (m *Master) missingParents(t *txn, a *event.AccountRecord, name string, made map[string]bool) ([]*event.Change, error) {
	var out []*event.Change
	for i, c := range name {
		if c != storage.Separator || made[name[:i]] {
			continue
		}
		if _, exists, err := mailboxID(t, storage.AccountID(a.Id), name[:i]); err != nil {
			return nil, err
		} else if exists {
			continue
		}
		b, err := m.newMailbox(t, a, name[:i], "")
		if err != nil {
			return nil, err
		}
		made[b.Name] = true
		out = append(out, mailboxChange(b))
	}
	return out, nil
}

// CreateMailbox implements storage.Mailboxes.
func (m *Master) CreateMailbox(ctx context.Context, id storage.AccountID, name string, use storage.SpecialUse) (storage.Mailbox, error) {
	name, err := storage.CanonicalMailboxName(name)
	if err == nil {
		err = use.Check()
	}
	if err != nil {
		return storage.Mailbox{}, err
	}
	var made storage.Mailbox
	err = m.makingMailboxes(ctx, id, func(c *roomCount) error {
		return m.growing(ctx, func(t *txn) error {
			a, err := loadAccount(t, id)
			if err != nil {
				return err
			}
			b, changes, err := m.newBelowItsLevels(t, a, "create mailbox", name, use, c)
			if err != nil {
				return err
			}
			made = m.shown(a, b, &event.MailboxStats{HighestModseq: b.Changed})
			return m.emit(t, append(changes, mailboxChange(b), accountChange(a))...)
		}, id)
	})
	if err != nil {
		return storage.Mailbox{}, err
	}
	return made, nil
}

// newBelowItsLevels makes a mailbox that must not be there yet, and the changes that
// make the missing levels above it, as far as the account may have them. doing is for
// the error.
func (m *Master) newBelowItsLevels(t *txn, a *event.AccountRecord, doing, name string, use storage.SpecialUse, c *roomCount) (*event.MailboxRecord, []*event.Change, error) {
	if _, exists, err := mailboxID(t, storage.AccountID(a.Id), name); err != nil {
		return nil, nil, err
	} else if exists {
		return nil, nil, storage.Errorf(storage.ErrExists, "%s %q: it exists already", doing, name)
	}
	parents, err := m.missingParents(t, a, name, map[string]bool{})
	if err != nil {
		return nil, nil, err
	}
	b, err := m.newMailbox(t, a, name, use)
	if err != nil {
		return nil, nil, err
	}
	return b, parents, m.fitMailboxes(a, len(parents)+1, c)
}

// makingMailboxes runs a change that fits new mailboxes with c.
func (m *Master) makingMailboxes(ctx context.Context, id storage.AccountID, change func(c *roomCount) error) error {
	c := &roomCount{}
	return counting(func() error { return change(c) }, func() error {
		return m.mailboxes.count(ctx, m, id, event.NamesOf(id, ""), m.s.o.sizes.mailboxes, c)
	})
}

// fitMailboxes refuses the n mailboxes that a closure has made when the account may
// not have as many.
func (m *Master) fitMailboxes(a *event.AccountRecord, n int, c *roomCount) error {
	if err := m.mailboxes.fit(storage.AccountID(a.Id), n, m.s.o.sizes.mailboxes, c); err != nil {
		return fmt.Errorf("create mailbox: %w", err)
	}
	return nil
}

// DeleteMailbox implements storage.Mailboxes. The records of its messages stay,
// out of reach under its ID, for undelete.
func (m *Master) DeleteMailbox(ctx context.Context, id storage.AccountID, name string) error {
	return m.acknowledged(ctx, func(t *txn) error {
		a, err := loadAccount(t, id)
		if err != nil {
			return err
		}
		b, err := mailboxByName(t, id, name)
		if err != nil {
			return err
		}
		if b.Name == "INBOX" {
			return storage.Errorf(storage.ErrInvalid, "INBOX cannot be deleted")
		}
		b.Deleted, b.DeletedClockMs, b.Changed = true, m.slotClock(t), m.modSeq(t, a)
		return m.emit(t, mailboxChange(b))
	}, id)
}

// RenameMailbox implements storage.Mailboxes.
func (m *Master) RenameMailbox(ctx context.Context, id storage.AccountID, from, to string) error {
	from, err := storage.CanonicalMailboxName(from)
	if err != nil {
		return err
	}
	if to, err = storage.CanonicalMailboxName(to); err != nil {
		return err
	}
	if from == "INBOX" {
		return m.renameInbox(ctx, id, to)
	}
	return m.makingMailboxes(ctx, id, func(c *roomCount) error {
		return m.renaming(ctx, id, from, func(t *txn) error { return m.renameTree(t, id, from, to, c) })
	})
}

// renameTree renames a mailbox and all below it, and makes the missing levels above
// the new name.
func (m *Master) renameTree(t *txn, id storage.AccountID, from, to string, c *roomCount) error {
	a, err := loadAccount(t, id)
	if err != nil {
		return err
	}
	tree, err := namesBelow(t, id, from)
	if err != nil {
		return err
	}
	if len(tree) == 0 {
		return storage.Errorf(storage.ErrNotFound, "rename mailbox %q: it does not exist", from)
	}
	switch _, exists, err := mailboxID(t, id, to); {
	case err != nil:
		return err
	case exists: // also when from is only a level of the names below it
		return storage.Errorf(storage.ErrExists, "rename mailbox %q: %q exists already", from, to)
	case to == from || strings.HasPrefix(to, from+"/"):
		return storage.Errorf(storage.ErrInvalid, "rename mailbox %q: %q lies inside it", from, to)
	}
	var changes []*event.Change
	made := map[string]bool{}
	for _, b := range tree {
		b.Name = to + strings.TrimPrefix(b.Name, from)
		if _, err := storage.CanonicalMailboxName(b.Name); err != nil {
			return fmt.Errorf("rename mailbox %q: below it: %w", from, err)
		}
		if _, exists, err := mailboxID(t, id, b.Name); err != nil {
			return err
		} else if exists {
			return storage.Errorf(storage.ErrExists, "rename mailbox %q: %q exists already", from, b.Name)
		}
		b.Changed = m.modSeq(t, a)
		made[b.Name] = true
		changes = append(changes, mailboxChange(b))
	}
	parents, err := m.missingParents(t, a, to, made)
	if err != nil {
		return err
	}
	if len(parents) > 0 {
		if err := m.fitMailboxes(a, len(parents), c); err != nil {
			return err
		}
	}
	return m.emit(t, append(append(parents, changes...), accountChange(a))...)
}

// renaming runs the change that a RENAME makes of mailboxes, or of INBOX's messages. It
// is one event; when that is too much for a closure it is prepared as a large change.
func (m *Master) renaming(ctx context.Context, id storage.AccountID, from string, fn func(t *txn) error) error {
	records, err := m.moves(ctx, id, from)
	if err != nil {
		return err
	}
	grown := false // since they were counted
	if records <= m.s.o.sizes.small {
		err := m.growing(ctx, func(t *txn) error {
			records, err := moves(t, id, from)
			if grown = records > m.s.o.sizes.small; err != nil || grown {
				return err
			}
			return fn(t)
		}, id)
		if err != nil || !grown {
			return err
		}
	}
	return m.large(ctx, records, id, fn)
}

func (m *Master) moves(ctx context.Context, id storage.AccountID, from string) (records int, err error) {
	err = m.view(ctx, func(v *view) error {
		records, err = moves(v, id, from)
		return err
	})
	return records, err
}

// moves counts what a RENAME of a mailbox moves.
func moves(r reader, id storage.AccountID, from string) (int, error) {
	if _, err := loadAccount(r, id); err != nil {
		return 0, err
	}
	if from != "INBOX" {
		n, err := countUpTo(r, event.NamesOf(id, from+"/"), storage.MaxMailboxes)
		return n + 1, err
	}
	inbox, err := mailboxByName(r, id, from)
	if err != nil {
		return 0, err
	}
	var st event.MailboxStats
	_, err = event.Load(r, event.StatsKey(inbox.Ref()), &st)
	return int(st.Messages), err
}

// renameInbox moves INBOX's messages to a new mailbox (RFC 3501, section 6.3.5):
// all of them or none, and what arrives meanwhile stays in INBOX.
func (m *Master) renameInbox(ctx context.Context, id storage.AccountID, to string) error {
	return m.makingMailboxes(ctx, id, func(c *roomCount) error {
		return m.renaming(ctx, id, "INBOX", func(t *txn) error {
			a, err := loadAccount(t, id)
			if err != nil {
				return err
			}
			inbox, err := mailboxByName(t, id, "INBOX")
			if err != nil {
				return err
			}
			b, changes, err := m.newBelowItsLevels(t, a, "rename INBOX to", to, "", c)
			if err != nil {
				return err
			}
			moved, err := m.moveAll(t, a, inbox, b)
			if err != nil {
				return err
			}
			return m.emit(t, append(append(changes, accountChange(a)), moved...)...)
		})
	})
}

// moveAll makes the changes that move all messages of a mailbox into a new one.
func (m *Master) moveAll(t *txn, a *event.AccountRecord, from, to *event.MailboxRecord) ([]*event.Change, error) {
	var uids []storage.UID
	if err := each(t, event.MessagesIn(from.Ref(), 0, ^storage.UID(0)), func(key, _ []byte) error {
		uids = append(uids, event.UIDOf(key))
		return nil
	}); err != nil {
		return nil, err
	}
	recs, _, err := t.withSummaries(from.Ref(), uids)
	if err != nil || len(recs) == 0 {
		return []*event.Change{mailboxChange(to)}, err
	}
	first, changes, err := m.takeUIDs(t, a, to, len(recs))
	if err != nil {
		return nil, err
	}
	for i, rec := range recs {
		changes = append(changes, messageChange(m.born(t, rec, a, to, first+storage.UID(i))), m.expunged(t, a, rec, true))
	}
	return changes, nil
}

// Subscribe implements storage.Mailboxes.
func (m *Master) Subscribe(ctx context.Context, id storage.AccountID, name string, on bool) error {
	name, err := storage.CanonicalMailboxName(name)
	if err != nil {
		return err
	}
	change := m.acknowledged
	if on {
		change = m.growing
	}
	c := &roomCount{}
	return counting(func() error {
		return change(ctx, func(t *txn) error {
			if _, err := loadAccount(t, id); err != nil {
				return err
			}
			_, is, err := t.Get(event.SubscriptionKey(id, name))
			if err != nil || is == on {
				return err
			}
			if on {
				m.subscriptions.made(id, 1)
				if err := m.subscriptions.fit(id, 1, m.s.o.sizes.subscriptions, c); err != nil {
					return fmt.Errorf("subscribe %q: %w", name, err)
				}
			}
			return m.emit(t, subscriptionChange(uint64(id), name, on))
		}, id)
	}, func() error {
		return m.subscriptions.count(ctx, m, id, event.SubscriptionsOf(id), m.s.o.sizes.subscriptions, c)
	})
}

// takeUIDs takes n UIDs of a mailbox, which gets a new UIDVALIDITY when its range is
// used up. The changes must go into the same event.
func (m *Master) takeUIDs(t *txn, a *event.AccountRecord, b *event.MailboxRecord, n int) (storage.UID, []*event.Change, error) {
	if first, ok := event.TakeUIDs(b, m.unclean, n); ok {
		return first, []*event.Change{mailboxChange(b)}, nil
	}
	if event.NewUIDValidity(a, b, m.unclean) {
		b.Changed = m.modSeq(t, a)
		if first, ok := event.TakeUIDs(b, m.unclean, n); ok {
			return first, []*event.Change{mailboxChange(b), accountChange(a)}, nil
		}
	}
	return 0, nil, storage.Errorf(storage.ErrLimit, "mailbox %q: its UIDs are used up", b.Name)
}
