package local

import (
	"bytes"
	"fmt"
	"slices"

	"mailnode/storage"
	"mailnode/storage/event"
)

// idsIn calls fn with one key for each account (idBytes is 8) or mailbox (16) that has
// records in a span. It seeks from one to the next, and does not read what lies between.
func idsIn(r reader, sp event.Span, idBytes int, fn func(key []byte) error) error {
	it, err := r.iter(sp)
	if err != nil {
		return err
	}
	defer it.Close()
	for ok := it.First(); ok; {
		k := bytes.Clone(it.Key())
		if err := fn(k); err != nil {
			return err
		}
		next := append(k, 0)
		if len(k) > 1+idBytes {
			if next = event.SpanOf(k[:1+idBytes]).Upper; next == nil {
				break
			}
		}
		ok = it.SeekGE(next)
	}
	if err := it.Error(); err != nil {
		return readError(err)
	}
	return nil
}

func (sc Scope) span(prefix byte) event.Span {
	if sc.Account == 0 {
		return event.SpanOf([]byte{prefix})
	}
	return event.SpanOf(be.AppendUint64([]byte{prefix}, uint64(sc.Account)))
}

// accounts lists the accounts of which the index has any record, derived ones included:
// what is left of an account that is gone must be met too. It adds up how many messages
// there are, for the progress and for references.
func (r *recount) accounts(only storage.AccountID) ([]storage.AccountID, error) {
	sc := Scope{Account: only}
	seen := map[storage.AccountID]bool{}
	err := r.s.read(func(v *view) error {
		for _, p := range []byte{event.PrefixAccount, event.PrefixMailbox, event.PrefixName, event.PrefixUsage} {
			if err := idsIn(v, sc.span(p), 8, func(k []byte) error {
				if len(k) >= accountKeyBytes {
					seen[storage.AccountID(be.Uint64(k[1:]))] = true
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return each(v, sc.span(event.PrefixStats), func(_, value []byte) error {
			st := &event.MailboxStats{}
			if unmarshal(value, st) == nil {
				r.total += int64(st.Messages)
			}
			return nil
		})
	})
	out := make([]storage.AccountID, 0, len(seen))
	for id := range seen {
		out = append(out, id)
	}
	slices.Sort(out)
	return out, err
}

// strays removes counters, envelopes and entries of the change index of mailboxes that
// do not exist.
func (r *recount) strays(only storage.AccountID) error {
	sc := Scope{Account: only}
	for _, p := range []byte{event.PrefixStats, event.PrefixChanged, event.PrefixSummary} {
		var strays []event.Span
		if err := r.s.read(func(v *view) error {
			return idsIn(v, sc.span(p), 16, func(k []byte) error {
				if len(k) < mailboxKeyBytes {
					strays = append(strays, event.Span{Lower: k, Upper: append(bytes.Clone(k), 0)})
					return nil
				}
				_, there, err := v.Get(event.MailboxKey(event.RefOf(k)))
				if err == nil && !there {
					strays = append(strays, event.SpanOf(k[:mailboxKeyBytes]))
				}
				return err
			})
		}); err != nil {
			return err
		}
		for _, sp := range strays {
			if err := r.removeStray(sp); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeStray removes the records of a span, a part at a time. A mailbox that has come
// into being since the view keeps them.
func (r *recount) removeStray(sp event.Span) error {
	for more, n := true, 0; more; {
		if err := r.step(func(t *txn) error {
			var keys [][]byte
			more = false
			if len(sp.Lower) == mailboxKeyBytes {
				if _, there, err := t.Get(event.MailboxKey(event.RefOf(sp.Lower))); err != nil || there {
					return err
				}
			}
			it, err := t.iter(sp)
			if err != nil {
				return err
			}
			defer it.Close()
			for ok := it.First(); ok && !more; ok = it.Next() {
				keys = append(keys, bytes.Clone(it.Key()))
				more = len(keys) == storage.MaxTxnRecords
			}
			if err := it.Error(); err != nil {
				return readError(err)
			}
			for _, k := range keys {
				if err := t.b.Delete(k, nil); err != nil {
					return err
				}
			}
			n += len(keys)
			return nil
		}); err != nil {
			return err
		}
		if !more && n > 0 {
			r.wrong("%d records under %q of a mailbox that does not exist", n, sp.Lower)
		}
	}
	return nil
}

// nameFix is a name that does not lead to the mailbox that has it; want is 0 when no
// mailbox has it.
type nameFix struct {
	name string
	want storage.MailboxID
}

// names puts an account's name index right.
func (r *recount) names(id storage.AccountID) error {
	var fixes []nameFix
	if err := r.s.read(func(v *view) error {
		named := map[string][]storage.MailboxID{} // several for one name: damage; any of them will do
		if err := each(v, event.MailboxesOf(id), func(_, value []byte) error {
			b := &event.MailboxRecord{}
			if unmarshal(value, b) == nil && !b.Deleted {
				named[b.Name] = append(named[b.Name], storage.MailboxID(b.Id))
			}
			return nil
		}); err != nil {
			return err
		}
		sp := event.NamesOf(id, "")
		if err := each(v, sp, func(k, value []byte) error {
			name := string(k[len(sp.Lower):])
			ids := named[name]
			delete(named, name)
			switch {
			case len(value) == 8 && slices.Contains(ids, storage.MailboxID(be.Uint64(value))):
			case len(ids) > 0:
				fixes = append(fixes, nameFix{name, ids[0]})
			default:
				fixes = append(fixes, nameFix{name, 0})
			}
			return nil
		}); err != nil {
			return err
		}
		for name, ids := range named {
			fixes = append(fixes, nameFix{name, ids[0]})
		}
		return nil
	}); err != nil {
		return err
	}
	for chunk := range slices.Chunk(fixes, storage.MaxTxnRecords/3) {
		if err := r.fixNames(id, chunk); err != nil {
			return err
		}
	}
	return nil
}

func (r *recount) fixNames(id storage.AccountID, fixes []nameFix) error {
	var done []nameFix
	if err := r.step(func(t *txn) error {
		done = done[:0]
		for _, f := range fixes {
			now, err := r.nameHolder(t, id, f)
			if err != nil {
				return err
			}
			if now != nil {
				done = append(done, *now)
			}
		}
		for _, f := range done {
			var err error
			if f.want == 0 {
				err = t.b.Delete(event.NameKey(id, f.name), nil)
			} else {
				err = t.b.Set(event.NameKey(id, f.name), be.AppendUint64(nil, uint64(f.want)), nil)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	for _, f := range done {
		if f.want == 0 {
			r.wrong("account %016x: name %q led to no mailbox", uint64(id), f.name)
		} else {
			r.wrong("account %016x: name %q did not lead to its mailbox", uint64(id), f.name)
		}
	}
	return nil
}

// nameHolder returns what is to be done about a name now, nil when nothing is. A
// mailbox may have been made, renamed or deleted since the view: a name that leads to a
// mailbox which has it stays, whatever the view said.
func (r *recount) nameHolder(t *txn, id storage.AccountID, f nameFix) (*nameFix, error) {
	holds := func(box storage.MailboxID) (bool, error) {
		b := &event.MailboxRecord{}
		raw, found, err := t.Get(event.MailboxKey(storage.Ref{Account: id, Mailbox: box}))
		return err == nil && found && unmarshal(raw, b) == nil && !b.Deleted && b.Name == f.name, err
	}
	value, found, err := t.Get(event.NameKey(id, f.name))
	if err != nil {
		return nil, err
	}
	if found && len(value) == 8 {
		if right, err := holds(storage.MailboxID(be.Uint64(value))); err != nil || right {
			return nil, err
		}
	}
	if f.want != 0 {
		if right, err := holds(f.want); err != nil {
			return nil, err
		} else if right {
			return &f, nil
		}
	}
	if !found {
		return nil, nil
	}
	return &nameFix{f.name, 0}, nil
}

// usage puts an account's quota use right. It adds up the counters of the mailboxes, so
// these come first.
func (r *recount) usage(id storage.AccountID) error {
	unread, err := r.clearUsage(id)
	if err != nil {
		return err
	}
	var have event.AccountStats
	var truth int64
	about := fmt.Sprintf("account %016x", uint64(id))
	if err := r.s.read(func(v *view) error {
		if _, err := event.Load(v, event.UsageKey(id), &have); err != nil {
			return err
		}
		if raw, _, err := v.Get(event.AccountKey(id)); err != nil {
			return err
		} else if a := (&event.AccountRecord{}); unmarshal(raw, a) == nil && a.Address != "" {
			about = a.Address
		}
		var err error
		truth, err = usedBytes(v, id)
		return err
	}); err != nil {
		return err
	}
	if have.Bytes != truth {
		if err := r.step(func(t *txn) error {
			var now event.AccountStats
			if _, err := event.Load(t, event.UsageKey(id), &now); err != nil {
				return err
			}
			now.Bytes += truth - have.Bytes
			return t.b.Set(event.UsageKey(id), event.Marshal(&now), nil)
		}); err != nil {
			return err
		}
	}
	if unread {
		r.wrong("%s: its quota use could not be read; its messages have %d bytes", about, truth)
	} else if have.Bytes != truth {
		r.wrong("%s: its quota use said %d bytes; its messages have %d", about, have.Bytes, truth)
	}
	return nil
}

// clearUsage sets a counter that cannot be read to 0. event.Apply leaves such a one
// alone; from here on it counts, and usage has something that it can correct.
func (r *recount) clearUsage(id storage.AccountID) (unread bool, err error) {
	bad := func(rd reader) (bool, error) {
		raw, _, err := rd.Get(event.UsageKey(id))
		return err == nil && unmarshal(raw, &event.AccountStats{}) != nil, err
	}
	if err := r.s.read(func(v *view) (err error) { unread, err = bad(v); return err }); err != nil || !unread {
		return false, err
	}
	return true, r.step(func(t *txn) error {
		still, err := bad(t)
		if err != nil || !still {
			return err
		}
		return t.b.Set(event.UsageKey(id), event.Marshal(&event.AccountStats{}), nil)
	})
}
