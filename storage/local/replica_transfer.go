package local

import (
	"context"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// ReadState calls fn for every record of the durable state, in key order.
// fn must not keep the slices.
func (s *Slot) ReadState(fn func(r event.Record) error) error {
	if s.building.Load() {
		return storage.Errorf(storage.ErrUnavailable, "read state of %s: this copy is being built", s.o.Slot)
	}
	return s.read(func(v *view) error {
		for _, p := range event.StatePrefixes() {
			if err := each(v, event.SpanOf([]byte{p}), func(k, val []byte) error { return fn(event.Record{Key: k, Value: val}) }); err != nil {
				return err
			}
		}
		return nil
	})
}

// ProveState reads what ReadState reads, and proves the digests of all mailboxes. The
// copy that takes this state drops its own, which may be the only one that is right.
func (s *Slot) ProveState(ctx context.Context) error {
	if err := s.ReadState(func(event.Record) error { return ctx.Err() }); err != nil {
		return err
	}
	return s.read(proveDigests)
}

// BeginImport makes the copy a building one and empties its state. It stays
// building, over crashes, until FinishImport. Bodies stay: those that the new
// state needs are not fetched again.
func (s *Slot) BeginImport(ctx context.Context) error {
	if _, err := s.space.hold(disk.Follow, 0); err != nil {
		return err // the state that is here is better than one that cannot be filled
	}
	if err := forgetWitness(s.o.FS, s.o.Dir); err != nil {
		return storage.Errorf(storage.ErrUnavailable, "import into %s: %w", s.o.Slot, err)
	}
	err := s.do(ctx, func(t *txn) error {
		t.alone, t.reload = true, true
		t.users = userCount{whole: true}
		s.generation.Add(1)
		if err := t.b.Set(localKey(keyBuilding), []byte{1}, nil); err != nil {
			return err
		}
		for _, p := range append(event.StatePrefixes(), event.PrefixJournal) {
			sp := event.SpanOf([]byte{p})
			if err := t.b.DeleteRange(sp.Lower, sp.Upper, nil); err != nil {
				return err
			}
		}
		if err := t.b.Delete(localKey(keyJournalEvents), nil); err != nil {
			return err
		}
		if err := t.b.Delete(localKey(keyJournalStart), nil); err != nil {
			return err
		}
		if err := t.b.Delete(localKey(keyAlone), nil); err != nil { // it belongs to the state that goes
			return err
		}
		// From here on, whether or not the caller still waits for the commit: an
		// emptied copy must never be taken for a whole one.
		s.building.Store(true)
		return nil
	})
	if err == nil {
		s.o.Resources.listings.drop(s)
	}
	return err
}

// ImportRecords writes records of the state; those of the slot itself (its
// head and lineage) are given to FinishImport.
func (s *Slot) ImportRecords(ctx context.Context, recs []event.Record) error {
	if _, err := s.space.hold(disk.Follow, 0); err != nil {
		return err
	}
	return s.do(ctx, func(t *txn) error {
		if !s.building.Load() {
			return storage.Errorf(storage.ErrInvalid, "import into %s: BeginImport first", s.o.Slot)
		}
		for _, r := range recs {
			if r.Key[0] == event.PrefixAccount {
				if err := t.countUser(r.Key, r.Value); err != nil {
					return err
				}
			}
			if err := t.b.Set(r.Key, r.Value, nil); err != nil {
				return err
			}
		}
		return nil
	})
}

// NeededBodies calls fn for bodies that the state names and that would not be
// here after a restart: those that are not here, and those that are only staged. Both
// must go through KeepBodies, else the state would outlive its bodies. live is false
// for the body of an expunged message, which may be gone everywhere.
func (s *Slot) NeededBodies(fn func(ref slot.BodyRef, size int64, live bool) error) error {
	return s.read(func(v *view) error {
		return eachNaming(v, func(prefix byte, m *event.MessageRecord, _ int, err error) error {
			switch {
			case prefix == event.PrefixMissing: // no copy has that one
				return nil
			case err != nil:
				return err
			case m == nil:
				return storage.Errorf(storage.ErrCorrupt, "read needed bodies of %s: an empty tombstone", s.o.Slot)
			}
			ref := m.Body()
			if have, err := s.keptBody(ref); err != nil || have {
				return err
			}
			return fn(ref, int64(m.Size), prefix == event.PrefixMessage)
		})
	})
}

// KeepBodies makes staged bodies durable without an event that names them. It returns
// ErrUnavailable when one is neither staged any more nor kept: ask for it again.
func (s *Slot) KeepBodies(ctx context.Context, refs []slot.BodyRef) error {
	return s.do(ctx, func(t *txn) error {
		places := make([]blob.Location, len(refs))
		for i, ref := range refs { // before anything is written: an error after a write would undo the group
			var staged bool
			if places[i], staged = t.stagedAt(ref); staged {
				continue
			}
			if _, kept, err := t.Get(event.BodyKey(ref)); err != nil {
				return err
			} else if !kept {
				return storage.Errorf(storage.ErrUnavailable, "keep body %s: it is not staged any more", ref)
			}
		}
		for i, ref := range refs {
			loc := places[i]
			if loc == (blob.Location{}) {
				continue
			}
			if err := t.b.Set(event.BodyKey(ref), encodeLocation(loc), nil); err != nil {
				return err
			}
			t.notePlaced(ref)
		}
		return nil
	})
}

// FinishImport ends the transfer: slotRecords are the records that begin with
// event.PrefixSlot, and have the head and the lineage of the state. The digests of all
// mailboxes must fit what arrived (law 8); else the copy stays building.
func (s *Slot) FinishImport(ctx context.Context, slotRecords []event.Record) error {
	if err := s.read(proveDigests); err != nil {
		return err
	}
	if err := s.settleBodies(ctx); err != nil {
		return err
	}
	err := s.do(ctx, func(t *txn) error {
		t.alone, t.reload = true, true
		s.generation.Add(1)
		for _, r := range slotRecords {
			if err := t.b.Set(r.Key, r.Value, nil); err != nil {
				return err
			}
		}
		var h event.HeadRecord
		if found, err := event.Load(t, event.HeadKey(), &h); err != nil || !found {
			return storage.Errorf(storage.ErrCorrupt, "import into %s: the state has no head (%v)", s.o.Slot, err)
		}
		if err := t.b.Set(localKey(keyJournalStart), be.AppendUint64(nil, h.Position), nil); err != nil {
			return err
		}
		t.head, t.clock = slot.Position(h.Position), h.SlotClockMs
		return t.b.Delete(localKey(keyBuilding), nil)
	})
	if err == nil {
		s.o.Resources.listings.drop(s)
		s.building.Store(false)
		s.told.forget()
	}
	return err
}

// proveDigests recomputes every mailbox's digest from its messages.
func proveDigests(v *view) error {
	return each(v, event.SpanOf([]byte{event.PrefixStats}), func(key, value []byte) error {
		st := &event.MailboxStats{}
		if err := unmarshal(value, st); err != nil {
			return err
		}
		ref := event.RefOf(key)
		var d event.Digest
		if err := each(v, event.MessagesIn(ref, 0, ^storage.UID(0)), func(_, value []byte) error {
			m := &event.MessageRecord{}
			if err := unmarshal(value, m); err != nil {
				return err
			}
			d = d.Add(event.DigestMessage(m))
			return nil
		}); err != nil {
			return err
		}
		if want := event.ParseDigest(st.Digest); d != want {
			return storage.Errorf(storage.ErrCorrupt, "mailbox %016x of account %016x: its messages have digest %s, it says %s",
				uint64(ref.Mailbox), uint64(ref.Account), d, want)
		}
		return nil
	})
}

// Digest sums the hashes of all live records of the slot (law 8). Two viable
// copies at the same position of one lineage have the same.
func (s *Slot) Digest() (slot.Position, event.Digest, error) {
	var at slot.Position
	var sum event.Digest
	err := s.read(func(v *view) (err error) {
		if at, _, err = v.head(); err != nil {
			return err
		}
		sum, err = digestOf(v)
		return err
	})
	return at, sum, err
}

func digestOf(v *view) (sum event.Digest, err error) {
	if sum, err = digestOfRest(v); err != nil {
		return sum, err
	}
	err = eachDigest(v, func(_ storage.Ref, d event.Digest) error {
		sum = sum.Add(d)
		return nil
	})
	return sum, err
}

// digestOfRest sums what is in no mailbox.
func digestOfRest(v *view) (sum event.Digest, err error) {
	add := func(prefix byte, digest func(key, value []byte) (event.Digest, error)) {
		if err == nil {
			err = each(v, event.SpanOf([]byte{prefix}), func(k, value []byte) error {
				d, err := digest(k, value)
				sum = sum.Add(d)
				return err
			})
		}
	}
	add(event.PrefixAccount, func(_, value []byte) (event.Digest, error) {
		r := &event.AccountRecord{}
		err := unmarshal(value, r)
		return event.DigestAccount(r), err
	})
	add(event.PrefixAddress, func(_, value []byte) (event.Digest, error) {
		r := &event.AddressRecord{}
		err := unmarshal(value, r)
		return event.DigestAddress(r), err
	})
	add(event.PrefixSubscription, func(k, _ []byte) (event.Digest, error) {
		return event.DigestSubscription(be.Uint64(k[1:]), string(k[9:])), nil
	})
	return sum, err
}

// eachDigest calls fn for every live mailbox, with the digest of its record and
// its messages.
func eachDigest(v *view, fn func(r storage.Ref, d event.Digest) error) error {
	return each(v, event.SpanOf([]byte{event.PrefixMailbox}), func(_, value []byte) error {
		r := &event.MailboxRecord{}
		if err := unmarshal(value, r); err != nil || r.Deleted {
			return err
		}
		st := &event.MailboxStats{}
		if _, err := event.Load(v, event.StatsKey(r.Ref()), st); err != nil {
			return err
		}
		return fn(r.Ref(), event.DigestMailbox(r).Add(event.ParseDigest(st.Digest)))
	})
}

// Digests returns the digests at one durable position, so that two copies can be
// compared mailbox by mailbox (law 8): start's first, of everything but
// mailboxes, then each live mailbox's in the order of its key.
func (s *Slot) Digests(start func(at slot.Position, rest event.Digest) error, box func(r storage.Ref, d event.Digest) error) error {
	if s.building.Load() {
		return storage.Errorf(storage.ErrUnavailable, "digests of %s: this copy is being built", s.o.Slot)
	}
	return s.read(func(v *view) error {
		at, _, err := v.head()
		if err != nil {
			return err
		}
		rest, err := digestOfRest(v)
		if err != nil {
			return err
		}
		if err := start(at, rest); err != nil {
			return err
		}
		return eachDigest(v, box)
	})
}

// MailboxName returns the names of a mailbox and its account for operators, also of a
// deleted one; what is not known is "".
func (s *Slot) MailboxName(r storage.Ref) (account slot.Address, mailbox string) {
	s.read(func(v *view) error {
		a, b := &event.AccountRecord{}, &event.MailboxRecord{}
		if _, err := event.Load(v, event.AccountKey(r.Account), a); err == nil {
			account = slot.Address(a.Address)
		}
		_, err := event.Load(v, event.MailboxKey(r), b)
		mailbox = b.Name
		return err
	})
	return account, mailbox
}
