package local

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/mime"
	"mailnode/storage/slot"
)

// ReplaceBody puts a body that is damaged here, or has no place, into a new place. The
// caller has proved that the bytes have the GUID. What lies in the old place stays
// there, dead. It returns ErrNotFound when nothing in the index names the body any more.
func (s *Slot) ReplaceBody(ctx context.Context, ref slot.BodyRef, note []byte, body io.ReaderAt, size int64) error {
	n := &blob.BirthNote{}
	if err := n.Unmarshal(note); err != nil {
		return storage.Errorf(storage.ErrCorrupt, "replace body %s: %w", ref, err)
	}
	if err := s.stage(ref, disk.Follow, n, body, size); err != nil {
		return err
	}
	defer s.onStage.abandon(ref)
	return s.do(ctx, func(t *txn) error {
		if _, named, err := t.Get(event.RefsKey(ref)); err != nil {
			return err
		} else if !named {
			return storage.Errorf(storage.ErrNotFound, "replace body %s: no message names it", ref)
		}
		loc, ok := t.stagedAt(ref)
		if !ok {
			return storage.Errorf(storage.ErrUnavailable, "replace body %s: it was replaced twice at one time", ref)
		}
		if err := t.b.Set(event.BodyKey(ref), encodeLocation(loc), nil); err != nil {
			return err
		}
		t.notePlaced(ref)
		return nil
	})
}

// proveAt reads a record of the packs whole: header, birth note and body.
func (s *Slot) proveAt(ref slot.BodyRef, loc blob.Location) error {
	if _, err := s.packs.Note(ref, loc); err != nil {
		return err
	}
	b, err := s.packs.Open(ref, loc)
	if err != nil {
		return err
	}
	return b.Close()
}

// ProveBody reads a body to its end, without telling OnDamage. It returns nil when the
// body is whole, storage.ErrCorrupt when it is damaged, storage.ErrNotFound when it has
// no place here, and another error when that cannot be told now.
func (s *Slot) ProveBody(ref slot.BodyRef) error {
	_, err := s.prove(ref)
	return err
}

// prove is ProveBody; it returns the body's place record too, nil when there is none.
func (s *Slot) prove(ref slot.BodyRef) (place []byte, err error) {
	for {
		loc, place, err := s.find(ref)
		if err != nil {
			return place, unfound(ref, err)
		}
		if err = s.proveAt(ref, loc); err == nil {
			return place, nil
		}
		now, _, again := s.placeOf(ref)
		switch {
		case again != nil:
			return place, unfound(ref, again)
		case !bytes.Equal(now, place):
			continue // moved or replaced in between
		case errors.Is(err, blob.ErrDamaged):
			return place, storage.Errorf(storage.ErrCorrupt, "slot %s: %w", s.o.Slot, err)
		}
		return place, storage.Errorf(storage.ErrUnavailable, "slot %s: %w", s.o.Slot, err)
	}
}

// errUnfound marks the errors of unfound.
var errUnfound = errors.New("the index is damaged")

// unfound keeps damage of the index apart from damage of a body: that a place cannot be
// read tells nothing about the body.
func unfound(ref slot.BodyRef, err error) error {
	if errors.Is(err, storage.ErrCorrupt) {
		return storage.Errorf(storage.ErrUnavailable, "find body %s: %w: %v", ref, errUnfound, err)
	}
	return err
}

func (s *Slot) placeOf(ref slot.BodyRef) (place []byte, found bool, err error) {
	err = s.read(func(v *view) (err error) {
		place, found, err = v.Get(event.BodyKey(ref))
		return err
	})
	return place, found, err
}

// GiveUp removes every message whose body is one of bodies from its mailbox, and
// notes it as missing (law 7; LAWS §4.15): the caller has asked all copies in vain.
// A body that is whole here after all is passed over. One that cannot be read now is
// not given up but returned as the error: a disk that does not read today may read
// tomorrow. Messages of deleted mailboxes and accounts, which nobody sees, stay as they
// are.
func (m *Master) GiveUp(ctx context.Context, bodies []slot.BodyRef) ([]storage.Missing, error) {
	g := givingUp{m: m, lost: map[slot.BodyRef][]byte{}}
	var unread error
	for _, ref := range bodies {
		place, err := m.s.prove(ref)
		switch {
		case m.s.mayPass(err):
			unread = storage.Errorf(storage.ErrUnavailable, "give up body %s: it cannot be read now: %w", ref, err)
		case errors.Is(err, storage.ErrCorrupt), errors.Is(err, storage.ErrNotFound):
			g.lost[ref] = place
		case err != nil:
			return nil, err
		}
	}
	if len(g.lost) == 0 {
		return nil, unread
	}
	in, order, err := g.find(ctx)
	if err != nil {
		return nil, err
	}
	for _, ref := range order {
		for uids := in[ref]; len(uids) > 0; {
			n := min(len(uids), storage.MaxTxnRecords/2) // a tombstone and a note each
			if err := g.some(ctx, ref, uids[:n]); err != nil {
				return g.out, err
			}
			uids = uids[n:]
		}
	}
	return g.out, cmp.Or(g.forget(ctx), unread)
}

// mayPass reports whether what looks like a body's damage may pass: the disk does not
// read now, or the packs are not where they were. That a pack is gone is believed only
// when its folder proves to be this slot's.
func (s *Slot) mayPass(damage error) bool {
	if damage == nil || !blob.Unread(damage) {
		return false
	}
	if !errors.Is(damage, blob.ErrGone) {
		return true
	}
	_, found, err := s.readIdentity(s.o.FS.PathJoin(s.o.PacksDir, "SLOT"))
	return !found || err != nil
}

type givingUp struct {
	m    *Master
	lost map[slot.BodyRef][]byte // and its place here when that was read
	out  []storage.Missing
}

// find returns the messages that name a lost body, by mailbox.
func (g *givingUp) find(ctx context.Context) (in map[storage.Ref][]storage.UID, order []storage.Ref, err error) {
	in = map[storage.Ref][]storage.UID{}
	rec := &event.MessageRecord{}
	err = g.m.view(ctx, func(v *view) error {
		return each(v, event.SpanOf([]byte{event.PrefixMessage}), func(key, value []byte) error {
			if err := unmarshal(value, rec); err != nil {
				return err
			}
			if _, lost := g.lost[rec.Body()]; lost {
				ref := event.RefOf(key)
				if in[ref] == nil {
					order = append(order, ref)
				}
				in[ref] = append(in[ref], event.UIDOf(key))
			}
			return ctx.Err()
		})
	})
	return in, order, err
}

func (g *givingUp) some(ctx context.Context, ref storage.Ref, uids []storage.UID) error {
	m := g.m
	var part []storage.Missing
	err := m.acknowledged(ctx, func(t *txn) error {
		part = nil
		a, b, err := in(t, ref)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		recs, err := existing(t, ref, uids)
		if err != nil {
			return err
		}
		var changes []*event.Change
		for _, rec := range recs {
			if lost, err := g.isLost(t, rec.Body()); err != nil {
				return err
			} else if !lost {
				continue
			}
			x := &event.MissingRecord{Message: m.record(rec), Address: a.Address, MailboxName: b.Name, SlotClockMs: m.slotClock(t)}
			changes = append(changes, m.expunged(t, a, rec, false), missingChange(x))
			part = append(part, showMissing(x, x.SlotClockMs))
		}
		if len(changes) == 0 {
			return nil
		}
		return m.emit(t, changes...)
	}, ref.Account)
	if err == nil {
		g.out = append(g.out, part...)
	}
	return err
}

// isLost reports whether a lost body still lies where it was found damaged.
func (g *givingUp) isLost(t *txn, ref slot.BodyRef) (bool, error) {
	was, lost := g.lost[ref]
	if !lost {
		return false, nil
	}
	now, _, err := t.Get(event.BodyKey(ref))
	return bytes.Equal(now, was), err
}

// forget drops the damaged places, so that no tombstone can be brought back with
// wrong bytes. The bytes stay in the pack.
func (g *givingUp) forget(ctx context.Context) error {
	for ref, was := range g.lost {
		if was == nil {
			continue
		}
		if err := g.m.s.forgetPlace(ctx, ref, was); err != nil {
			return err
		}
	}
	return nil
}

// forgetPlace drops a body's place, unless it has another one by now.
func (s *Slot) forgetPlace(ctx context.Context, ref slot.BodyRef, was []byte) error {
	return s.do(ctx, func(t *txn) error {
		now, found, err := t.Get(event.BodyKey(ref))
		if err != nil || !found || !bytes.Equal(now, was) {
			return err
		}
		return t.b.Delete(event.BodyKey(ref), nil)
	})
}

// ForgetDamaged drops the place of a body that is damaged here. The caller knows that
// no message which clients can see needs it (BodyUnneeded). The bytes stay in the pack.
func (s *Slot) ForgetDamaged(ctx context.Context, ref slot.BodyRef) error {
	place, err := s.prove(ref)
	if place == nil || !errors.Is(err, storage.ErrCorrupt) || s.mayPass(err) {
		return err
	}
	return s.forgetPlace(ctx, ref, place)
}

func showMissing(x *event.MissingRecord, nowMs uint64) storage.Missing {
	return storage.Missing{Address: slot.Address(x.Address), Mailbox: x.MailboxName, UID: storage.UID(x.Message.GetUid()),
		GUID: x.Message.Body().GUID, Size: x.Message.GetSize(), InternalDate: time.Unix(x.Message.GetInternalDateUnix(), 0).UTC(),
		Ago: clockSince(nowMs, x.SlotClockMs)}
}

// GivenUp lists the bodies of missing messages, each once.
func (s *Slot) GivenUp() (bodies []slot.BodyRef, messages int, err error) {
	seen := map[slot.BodyRef]bool{}
	err = s.read(func(v *view) error {
		return eachMissing(v, func(x *event.MissingRecord) error {
			messages++
			if ref := x.Message.Body(); !seen[ref] {
				seen[ref] = true
				bodies = append(bodies, ref)
			}
			return nil
		})
	})
	return bodies, messages, err
}

// BodyUnneeded reports whether no message that clients can see needs a body: the index
// does not name it, or it was given up. A replica that waits for it takes the whole
// state instead, which does not need it.
func (s *Slot) BodyUnneeded(ref slot.BodyRef) (unneeded bool, err error) {
	looked := false
	if err := s.read(func(v *view) error {
		refs, named, err := v.Get(event.RefsKey(ref))
		if err != nil || !named {
			unneeded, looked = err == nil, true
			return err
		}
		var known uint64 // references of messages that were given up, and of their tombstones
		if err := eachMissing(v, func(x *event.MissingRecord) error {
			if x.Message.Body() != ref {
				return nil
			}
			_, tombstone, err := v.Get(event.ExpungedKey(x.Message.Ref(), storage.UID(x.Message.Uid)))
			if known++; tombstone {
				known++
			}
			return err
		}); err != nil {
			return err
		}
		all, _ := binary.Uvarint(refs)
		unneeded, looked = known > 0 && known == all, known == 0 || known == all
		return nil
	}); err != nil || looked {
		return unneeded && err == nil, err
	}
	// Some of the messages that were given up with it are back, and others are not,
	// because their account is deleted; or it is named by what nobody sees.
	names, err := s.NamesOf(context.Background(), map[slot.BodyRef]error{ref: nil})
	return err == nil && len(names[ref]) == 0, err
}

// TakeBack delivers the missing messages of a body that is whole here again
// (ReplaceBody), under new UIDs, with their flags and dates: into the mailbox with the
// same ID, else of the same name, else one that it creates. Quotas do not stop it. It
// returns how many messages it delivered.
func (m *Master) TakeBack(ctx context.Context, ref slot.BodyRef) (int, error) {
	var back []*event.MissingRecord
	if err := m.view(ctx, func(v *view) error {
		return eachMissing(v, func(x *event.MissingRecord) error {
			if x.Message.Body() == ref {
				back = append(back, x)
			}
			return nil
		})
	}); err != nil || len(back) == 0 {
		return 0, err
	}
	body, _, err := m.s.Body(ref)
	if err != nil {
		return 0, err
	}
	defer body.Close()
	msg, err := mime.Scan(io.NewSectionReader(body, 0, body.Size()))
	if err != nil {
		return 0, fmt.Errorf("scan message %s: %w", ref, err)
	}
	s := msg.Summary()
	summary := s.Append(nil)
	m.s.watch.bodies.announce(ref)
	n := 0
	for _, x := range back {
		done := false
		if err := m.acknowledged(ctx, func(t *txn) (err error) {
			done, err = m.takeBackOne(t, x, summary)
			return err
		}, x.Message.Ref().Account); err != nil {
			return n, err
		}
		if done {
			n++
		}
	}
	return n, nil
}

func (m *Master) takeBackOne(t *txn, x *event.MissingRecord, summary []byte) (bool, error) {
	old := x.Message
	if _, still, err := t.Get(event.MissingKey(old.Ref(), storage.UID(old.Uid))); err != nil || !still {
		return false, err
	}
	a, err := loadAccount(t, storage.AccountID(old.Account))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil // the account is deleted; if it is brought back, the next TakeBack finds it
	}
	if err != nil {
		return false, err
	}
	b, changes, err := m.homeOf(t, a, x)
	if err != nil {
		return false, err
	}
	uid, more, err := m.takeUIDs(t, a, b, 1)
	if err != nil {
		return false, err
	}
	rec := m.born(t, old, a, b, uid)
	rec.Summary = summary
	changes = append(append(changes, more...), messageChange(rec))
	gone := &event.ExpungedRecord{}
	if found, err := event.Load(t, event.ExpungedKey(old.Ref(), storage.UID(old.Uid)), gone); err != nil {
		return false, err
	} else if found && !gone.Restored {
		gone.Restored = true // undelete must not bring it back a second time
		changes = append(changes, expungedChange(gone))
	}
	return true, m.emit(t, append(changes, missingChange(&event.MissingRecord{Message: old, Found: true}))...)
}

// homeOf finds or makes the mailbox for a missing message.
func (m *Master) homeOf(t *txn, a *event.AccountRecord, x *event.MissingRecord) (*event.MailboxRecord, []*event.Change, error) {
	b, err := loadMailbox(t, x.Message.Ref())
	if err == nil || !errors.Is(err, storage.ErrNotFound) {
		return b, nil, err
	}
	if b, err = mailboxByName(t, storage.AccountID(a.Id), x.MailboxName); err == nil || !errors.Is(err, storage.ErrNotFound) {
		return b, nil, err
	}
	changes, err := m.missingParents(t, a, x.MailboxName, map[string]bool{})
	if err != nil {
		return nil, nil, err
	}
	if b, err = m.newMailbox(t, a, x.MailboxName, ""); err != nil {
		return nil, nil, err
	}
	return b, append(changes, accountChange(a)), nil
}
