package local

import (
	"errors"

	"github.com/cockroachdb/pebble/v2"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/index"
	"mailnode/storage/slot"
)

// What a rebuild keeps of the old index beside its mail, and what proves that the old
// index is not of an earlier day. Of what a copy notes of itself (PrefixLocal) it keeps
// one thing:
//
//   - promised: law 1 rests on it. When it cannot be read, the epoch that Raft has is
//     promised, which is no lower than any that this copy was asked under: the caller
//     proves that its Raft is fresh.
//
// The rest is lost on purpose, or with it the safe value is taken:
//
//   - clean, building, packs, rebuilding: the new index has its own. What they say of the
//     old one, trust reads.
//   - alone: all that a rebuild Alone brings back counts as confirmed by nobody. Refill
//     drops the mark, as every state transfer does, and sets aside what it was about
//     (rebuild_aside.go).
//   - served: without it a state that is set aside counts as acknowledged.
//   - journal, events: there is no journal any more.
//   - identity: each Open writes it.
//   - when packs were compacted and first seen: they are so once more, later.

// know notes in the mark what must outlive the old index. After the first attempt has
// moved that, HEAD is an attempt's own.
func (rb *rebuild) know() error {
	if rb.mark.Step == stepMove {
		head, _, err := newSlot(rb.o).witness()
		if err != nil {
			return err
		}
		rb.mark.Head = max(rb.mark.Head, head)
	}
	// Both may be there, and either may be the only one that can be read.
	for _, dir := range []string{rb.index(), rb.quarantine(rb.mark.Old)} {
		e, err := rb.promisedIn(dir)
		if err != nil {
			return err
		}
		rb.mark.Promised = max(rb.mark.Promised, e)
	}
	if rb.mark.Step == stepMove && rb.mark.Mode == Refill {
		return rb.leftBehind()
	}
	return nil
}

// promisedIn returns the highest promise that can be read in an index; 0: none.
func (rb *rebuild) promisedIn(dir string) (e slot.Epoch, err error) {
	if there, err := index.Exists(rb.fs, dir); err != nil || !there {
		return 0, err
	}
	s := newSlot(rb.o)
	x := openSalvage(s, dir)
	defer x.Close()
	take := func(v []byte) {
		if len(v) == 8 {
			e = max(e, slot.Epoch(be.Uint64(v)))
		}
	}
	if x.Opened() {
		return e, s.guarded(func() error {
			if v, found, err := x.Get(localKey(keyPromised)); err == nil && found {
				take(v)
			}
			return nil
		})
	}
	err = x.Raw(func(k, v []byte) error {
		if string(k) == string(localKey(keyPromised)) {
			take(v)
		}
		return rb.spend(int64(len(k) + len(v)))
	})
	return e, err
}

// promise makes the promise durable in the new index before anything else, and that
// nothing in it proves a deletion before the rebuild has ended: should the mark of the
// rebuild be lost, this index would be taken for the old one.
func (rb *rebuild) promise(out *sink) error {
	e := max(rb.mark.Promised, rb.mark.Epoch)
	if err := out.Set(localKey(keyPromised), be.AppendUint64(nil, uint64(e))); err != nil {
		return err
	}
	if err := out.Set(localKey(keyRebuilding), []byte{1}); err != nil {
		return err
	}
	return out.flush(pebble.Sync)
}

// trust is the first part of step 2. An index of an earlier day has only checksums that are
// right. What came since has left traces: HEAD, packs that it does not know, and bodies
// behind the last that it knows. Without these it would prove that the newest mail was
// expunged, and its numbers would be given out a second time (laws 2 and 7).
func (g *regain) trust() error {
	was := g.rb.mark.Head
	g.saw(was)
	if !g.old.Opened() {
		return nil // nothing of it is sound
	}
	end, err := g.end()
	if err != nil {
		return err
	}
	rebuilding, found, err := g.noted(keyRebuilding)
	if err != nil {
		return err
	}
	switch {
	case end == 0:
		g.old.LoseAll("the old index has neither a head nor a journal that can be read: it was being filled, or is damaged there")
	case found && len(rebuilding) > 0:
		g.old.LoseAll("the old index was being rebuilt itself")
	case end < was:
		g.old.LoseAll("the old index ends at %s, it had reached %s: it is of an earlier day, or was cut short", end, was)
	default:
		return g.trustByPacks()
	}
	return nil
}

// end returns where the old index ends, as far as it can be read.
func (g *regain) end() (slot.Position, error) {
	var head event.HeadRecord
	raw, _, err := g.to.Get(event.HeadKey())
	if err != nil || unmarshal(raw, &head) != nil {
		head.Position = 0
	}
	if err != nil {
		return 0, err
	}
	it, err := g.to.iter(event.SpanOf([]byte{event.PrefixJournal}))
	if err != nil {
		return 0, err
	}
	defer it.Close()
	end := slot.Position(head.Position)
	if it.Last() {
		end = max(end, event.PositionOf(it.Key()))
	}
	return end, it.Error()
}

// noted reads what the old index notes of itself; found is false where that cannot be
// read.
func (g *regain) noted(key string) (v []byte, found bool, err error) {
	err = g.s.guarded(func() error {
		var broken error
		if v, found, broken = g.old.Get(localKey(key)); broken != nil {
			v, found = nil, false
		}
		return nil
	})
	return v, found, err
}

// trustByPacks compares the old index with the packs. Nothing is ever put into the packs
// that were there when it was opened, so all that it does not name in those is dead. It
// was closed cleanly: then there are no others, or it is of an earlier day. It was not: then
// what lies behind the last body that it knows may have been in flight, or is newer.
func (g *regain) trustByPacks() error {
	v, found, err := g.noted(keyPacks)
	if err != nil {
		return err
	}
	from := uint32(0)
	if found && len(v) == 4 {
		from = be.Uint32(v)
	}
	_, clean, err := g.noted(keyClean)
	if err != nil {
		return err
	}
	numbers, err := g.s.packs.Packs()
	if err != nil {
		return err
	}
	var x unknownBodies
	for _, n := range numbers {
		if n <= from {
			continue
		}
		if clean && found {
			g.old.LoseAll("pack %d was begun after the old index was closed: that is of an earlier day", n)
			return nil
		}
		if err := g.unknownIn(n, &x); err != nil {
			return err
		}
	}
	g.distrust(append(x.own, x.rewritten...))
	return nil
}

// unknownBodies are those behind the last that the old index knows, in the packs that are
// written one after the other, and in each that a compaction wrote.
type unknownBodies struct{ own, rewritten []blob.Found }

// unknownMost is how many bodies may have been in flight when the copy was cut off. More of
// them prove that the index is of an earlier day.
const unknownMost = 256

// unknownIn looks through one pack.
func (g *regain) unknownIn(n uint32, x *unknownBodies) error {
	to := &x.own
	before := 0
	if rewritten, err := g.s.packs.Rewritten(n); rewritten || err != nil {
		to, before = &x.rewritten, len(x.rewritten)
	}
	err := g.s.packs.Scan(n, func(f blob.Found) error {
		if err := g.rb.spend(int64(f.Location.NoteBytes) + 4096); err != nil {
			return err
		}
		switch named, known := g.references(f.Ref); {
		case named > 0:
			*to = (*to)[:before]
		case known && len(*to) <= unknownMost:
			there, err := g.mayBeOwned(f.Note)
			if there {
				*to = append(*to, f)
			}
			return err
		}
		return nil
	}, nil)
	if errors.Is(err, blob.ErrDamaged) && !blob.Unread(err) {
		return nil // step 4 names it
	}
	return err
}

// mayBeOwned reports whether a birth note names an account that was not erased: what an
// operator has erased does not come back.
func (g *regain) mayBeOwned(note *blob.BirthNote) (bool, error) {
	for _, b := range note.Births {
		rec := &event.AddressRecord{}
		raw, found, err := g.to.Get(event.AddressKey(slot.Address(b.Address)))
		if err != nil {
			return false, err
		}
		if !found || unmarshal(raw, rec) != nil || !rec.Erased || rec.Account != b.Account {
			return true, nil
		}
	}
	return false, nil
}

// distrust takes out of what is sound whatever the bodies concern that the old index
// does not know: step 7 gives them back, and the numbers of their accounts and mailboxes
// leap first.
func (g *regain) distrust(bodies []blob.Found) {
	if len(bodies) > unknownMost {
		g.old.LoseAll("the packs have more than %d messages that the old index does not know: it is of an earlier day", unknownMost)
		return
	}
	boxes := map[storage.Ref]bool{}
	for _, f := range bodies {
		g.old.lose(keySpan(event.RefsKey(f.Ref)), "body %s in pack %d: the old index does not know it: it was in flight, or that is of an earlier day", f.Ref, f.Location.Pack)
		for _, b := range f.Note.Births {
			ref := storage.Ref{Account: storage.AccountID(b.Account), Mailbox: storage.MailboxID(b.Mailbox)}
			if boxes[ref] {
				continue
			}
			boxes[ref] = true
			for _, k := range [][]byte{event.AccountKey(ref.Account), event.MailboxKey(ref)} {
				g.old.lose(keySpan(k), "%s %s: may have had mail that the old index does not know", b.Address, b.MailboxName)
			}
		}
	}
}
