package local

import (
	"encoding/binary"
	"fmt"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// regain fills a new index in mode Alone: what the old one gives, what its journal
// has newer, and what only the packs still have.
type regain struct {
	rb  *rebuild
	s   *Slot
	to  *sink
	old *salvage

	accounts map[storage.AccountID]*event.AccountRecord
	boxes    map[storage.Ref]*event.MailboxRecord
	inNames  map[storage.AccountID]map[string]*event.MailboxRecord
	numbers

	slotRec event.SlotRecord
	head    event.HeadRecord
	known   slot.Position // nothing that is known has a higher one
	next    slot.Position // the new head
	births  map[storage.AccountID]*remembered
}

// numbers are those that clients may have seen.
type numbers struct {
	validity map[storage.AccountID]uint32 // highest UIDVALIDITY of any mailbox
	fresh    map[storage.Ref]bool         // has got a new UIDVALIDITY already
	highest  map[storage.Ref]storage.UID  // of all messages and tombstones
	leaps    int                          // beyond one per rebuild: parts of a range that were used up
}

// remembered is what birth notes say of an account whose record is lost, and of
// mailboxes.
type remembered struct {
	addresses map[slot.Address]int
	boxes     map[storage.MailboxID]string
}

// named is where the accounts are noted that name a body, while it goes on.
func namedKey(b slot.BodyRef, a storage.AccountID) []byte {
	return be.AppendUint64(namedSpan(b).Lower, uint64(a))
}

// encodeNamed is how often an account names a body, and whether one of these
// records holds it.
func encodeNamed(n uint64, holds bool) []byte {
	n <<= 1
	if holds {
		n |= 1
	}
	return binary.AppendUvarint(nil, n)
}

func namedBy(v []byte) (n uint64, holds bool) {
	n, _ = binary.Uvarint(v)
	return n >> 1, n&1 == 1
}

func namedSpan(b slot.BodyRef) event.Span {
	return event.SpanOf(append(localKey("named/"), event.BodyKey(b)[1:]...))
}

func (g *regain) run() error {
	g.accounts, g.boxes = map[storage.AccountID]*event.AccountRecord{}, map[storage.Ref]*event.MailboxRecord{}
	g.validity, g.fresh = map[storage.AccountID]uint32{}, map[storage.Ref]bool{}
	g.highest, g.births = map[storage.Ref]storage.UID{}, map[storage.AccountID]*remembered{}
	g.old = openSalvage(g.s, g.rb.quarantine(g.rb.mark.Old))
	defer g.old.Close()
	for _, step := range []func() error{g.copy, g.replay, g.holders, g.bodies, g.messages, g.place, g.unnamed, g.finish} {
		if err := step(); err != nil {
			return err
		}
		if err := g.to.room(); err != nil {
			return err
		}
	}
	for _, why := range g.old.Why {
		g.rb.lost("%s", why)
	}
	return nil
}

// salvaged are the prefixes that are taken from the old index; the rest is
// derived, or is this copy's own.
func salvaged() []byte {
	return []byte{event.PrefixAccount, event.PrefixMailbox, event.PrefixSubscription, event.PrefixAddress, event.PrefixSummary,
		event.PrefixMessage, event.PrefixSlot, event.PrefixExpunged, event.PrefixMissing, event.PrefixJournal}
}

// copy takes over what can be read. The journal goes the same way for now.
func (g *regain) copy() error {
	take := func(k, v []byte) error {
		if err := g.rb.spend(int64(len(k) + len(v))); err != nil {
			return err
		}
		if err := g.to.Set(k, v); err != nil {
			return err
		}
		return g.to.room()
	}
	if g.old.Opened() {
		for _, p := range salvaged() {
			if err := g.old.each(event.SpanOf([]byte{p}), take); err != nil {
				return err
			}
		}
		return nil
	}
	wanted := map[byte]bool{}
	for _, p := range salvaged() {
		wanted[p] = true
	}
	return g.old.Raw(func(k, v []byte) error {
		if len(k) == 0 || !wanted[k[0]] {
			return nil
		}
		have, found, err := g.to.Get(k)
		if err != nil || found && !newer(k, have, v) {
			return err
		}
		return take(k, v)
	})
}

// replay lets the journal's events fill in what is missing or older. Each has a
// checksum of its own.
func (g *regain) replay() error {
	var at []byte
	sp := event.SpanOf([]byte{event.PrefixJournal})
	for {
		// In steps, because an iterator does not see what is written meanwhile.
		var events []*event.Event
		if err := stopEarly(each(g.to, sp, func(k, v []byte) error {
			at = append(at[:0], k...)
			g.saw(event.PositionOf(k))
			ev, err := event.Decode(v)
			if err != nil {
				g.rb.lost("event %s: %v", event.PositionOf(k), err)
				return nil
			}
			if events = append(events, ev); len(events) == 256 {
				return errEnough
			}
			return nil
		})); err != nil {
			return err
		}
		for _, ev := range events {
			for _, c := range ev.Changes {
				if err := g.replayed(c); err != nil {
					return err
				}
			}
		}
		if err := g.to.room(); err != nil {
			return err
		}
		if len(events) < 256 {
			break
		}
		sp.Lower = append(append([]byte(nil), at...), 0)
	}
	all := event.SpanOf([]byte{event.PrefixJournal})
	return g.to.b.DeleteRange(all.Lower, all.Upper, nil)
}

var errEnough = fmt.Errorf("enough")

func stopEarly(err error) error {
	if err == errEnough {
		return nil
	}
	return err
}

func (g *regain) saw(p slot.Position) { g.known = max(g.known, p) }

// replayed takes one change in, when it says more than the records.
func (g *regain) replayed(c *event.Change) error {
	switch rec := c.Record.(type) {
	case *event.Change_Message:
		m := rec.Message
		return g.newest(m.Ref(), storage.UID(m.Uid), m.Modseq, func() error {
			if err := g.to.Delete(event.ExpungedKey(m.Ref(), storage.UID(m.Uid))); err != nil {
				return err
			}
			if len(m.Summary) > 0 {
				if err := g.to.Set(event.SummaryKey(m.Ref(), storage.UID(m.Uid)), m.Summary); err != nil {
					return err
				}
				m.Summary = nil
			}
			return g.to.Set(event.MessageKey(m.Ref(), storage.UID(m.Uid)), event.Marshal(m))
		})
	case *event.Change_Expunged:
		m := rec.Expunged.Message
		if m == nil {
			return nil
		}
		return g.newest(m.Ref(), storage.UID(m.Uid), m.Modseq, func() error {
			if err := g.to.Delete(event.MessageKey(m.Ref(), storage.UID(m.Uid))); err != nil {
				return err
			}
			return g.to.Set(event.ExpungedKey(m.Ref(), storage.UID(m.Uid)), event.Marshal(rec.Expunged))
		})
	case *event.Change_Mailbox:
		return g.better(event.MailboxKey(rec.Mailbox.Ref()), event.Marshal(rec.Mailbox))
	case *event.Change_Account:
		return g.better(event.AccountKey(storage.AccountID(rec.Account.Id)), event.Marshal(rec.Account))
	case *event.Change_Address:
		return g.better(event.AddressKey(slot.Address(rec.Address.Address)), event.Marshal(rec.Address))
	case *event.Change_Slot:
		return g.better(event.SlotKey(), event.Marshal(rec.Slot))
	case *event.Change_Subscription:
		k := event.SubscriptionKey(storage.AccountID(rec.Subscription.Account), rec.Subscription.Name)
		if g.old.sound(keySpan(k)) {
			return nil
		}
		if rec.Subscription.Removed {
			return g.to.Delete(k)
		}
		return g.to.Set(k, nil)
	case *event.Change_Freed:
		return g.freed(rec.Freed)
	}
	return nil
}

// newest calls set when neither record of the UID is as new, unless the old index
// is known to be right about it: then it was freed since.
func (g *regain) newest(ref storage.Ref, uid storage.UID, modseq uint64, set func() error) error {
	mk, tk := event.MessageKey(ref, uid), event.ExpungedKey(ref, uid)
	if g.old.sound(keySpan(mk)) && g.old.sound(keySpan(tk)) {
		return nil
	}
	m, _, err := messageOf(g.to, ref, uid)
	if err != nil || m != nil && m.Modseq >= modseq {
		return err
	}
	return set()
}

// better sets a record that is missing, unreadable or older, where the old index
// is not known to be right.
func (g *regain) better(key, value []byte) error {
	if g.old.sound(keySpan(key)) {
		return nil
	}
	have, found, err := g.to.Get(key)
	if err != nil || found && !newer(key, have, value) {
		return err
	}
	return g.to.Set(key, value)
}

// freed forgets again what replaying brought back.
func (g *regain) freed(x *event.FreedRecord) error {
	ref := storage.Ref{Account: storage.AccountID(x.Account), Mailbox: storage.MailboxID(x.Mailbox)}
	if ref.Mailbox == 0 {
		return g.to.Delete(event.AccountKey(ref.Account))
	}
	for _, u := range x.Uids {
		uid := storage.UID(u)
		for _, k := range [][]byte{event.MessageKey(ref, uid), event.ExpungedKey(ref, uid), event.SummaryKey(ref, uid)} {
			if err := g.to.Delete(k); err != nil {
				return err
			}
		}
	}
	if x.Whole {
		return g.to.Delete(event.MailboxKey(ref))
	}
	return nil
}
