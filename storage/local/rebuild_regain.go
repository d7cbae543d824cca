package local

import (
	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// regain fills a new index in mode Alone: no other copy can be asked. It has three
// sources, and believes each as far as it can be proved:
//
//   - the old index. A record that can be read is right: its block has a checksum.
//     That a record is missing, or is the newest of its key, is believed only where
//     the old index is sound (salvage.sound): not in a span that damage has hit, and
//     nowhere when a log or the list of files is damaged, since what was written last
//     may then be gone from anywhere;
//   - its journal, in which each event has a checksum of its own;
//   - the packs: a record's header proves which body lies there and to whom it was
//     delivered, but not what became of the message since.
//
// Nothing is dropped in silence (law 7): what is lost, Rebuilt.Lost names. Numbers
// that the lost part may have given out are not given out again, so numbers jump:
// MODSEQs because clients may have been shown higher ones than any that is left
// (law 3), UIDVALIDITYs because a UID that the lost part gave to one message would
// else be given to another (law 2).
//
// The steps, in the order in which they run. Steps 1 and 2 are in this file and in
// rebuild_trust.go, 3 to 5 in rebuild_regain_records.go, 6 in rebuild_regain_mailboxes.go,
// which begins with what makes lost accounts and mailboxes again, 7 and 8 in
// rebuild_regain_packs.go.
//
//  1. copy takes over every primary record that can be read, and the journal. Derived
//     records are not taken: the Recount behind this computes them.
//  2. trust finds out whether the old index is the one that it should be, or one of an
//     earlier day: that is as sound, and proves nothing of what came since. Then replay has the journal's events put in what is missing or older, where the old
//     index is not sound. The journal goes then: what is made here is not what its
//     events led to, so a replica must take the whole state.
//  3. holders reads accounts and mailboxes into memory. Then positions finds the
//     highest position that is known, and jump sets the new head far past it (law 3):
//     the steps that follow change records, and need a MODSEQ for that. They also make
//     mailboxes, so counters of UIDVALIDITYs that may be old leap before (law 2).
//  4. bodies enters where each body lies, read from the packs alone: so that it also
//     finds those that the old index did not know. It notes what birth notes say of
//     accounts and mailboxes whose record is lost, which step 5 makes again.
//  5. messages decides for each UID whether it is live or expunged. A live message
//     whose body is nowhere is recorded as missing. From here on it is known which
//     account still has which body, and the highest UID of each mailbox.
//  6. mailboxes gives a new UIDVALIDITY to each mailbox that is not proved complete
//     (law 2). That needs all UIDs of step 5.
//  7. unnamed delivers again what only the packs still have (law 7), under new UIDs:
//     the mailboxes must have their UIDVALIDITY by then.
//  8. finish writes accounts, mailboxes and the head: the steps before changed them.
type regain struct {
	rb  *rebuild
	s   *Slot
	to  *sink
	old *salvage

	// Accounts and mailboxes are kept in memory, and written by the last step.
	accounts    map[storage.AccountID]*event.AccountRecord
	boxes       map[storage.Ref]*event.MailboxRecord
	boxesByName map[storage.AccountID]map[string]*event.MailboxRecord // see byName
	births      map[storage.AccountID]*remembered
	numbers

	slotRec event.SlotRecord
	head    event.HeadRecord
	known   slot.Position // the highest that anything shows
	next    slot.Position // the new head
}

// numbers are those that clients may have seen.
type numbers struct {
	validity map[storage.AccountID]uint32 // highest UIDVALIDITY of any mailbox
	fresh    map[storage.Ref]bool         // has a new UIDVALIDITY already
	highest  map[storage.Ref]storage.UID  // of all messages and tombstones
	leaps    int                          // parts of a range of UIDVALIDITYs that this rebuild used up
}

// remembered is what birth notes say of an account and its mailboxes, of which a
// record is lost.
type remembered struct {
	addresses map[slot.Address]int // how many notes have it
	boxes     map[storage.MailboxID]string
}

func (g *regain) run() error {
	g.accounts, g.boxes = map[storage.AccountID]*event.AccountRecord{}, map[storage.Ref]*event.MailboxRecord{}
	g.validity, g.fresh = map[storage.AccountID]uint32{}, map[storage.Ref]bool{}
	g.highest, g.births = map[storage.Ref]storage.UID{}, map[storage.AccountID]*remembered{}
	g.old = openSalvage(g.s, g.rb.quarantine(g.rb.mark.Old))
	defer g.old.Close()
	for _, step := range []func() error{g.copy, g.trust, g.replay, g.holders, g.bodies, g.messages, g.mailboxes, g.unnamed, g.finish} {
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

// salvaged are the prefixes that are taken from the old index. The rest is derived,
// or is this copy's own: places of bodies, which the packs know better, and marks.
func salvaged() []byte {
	return []byte{event.PrefixAccount, event.PrefixMailbox, event.PrefixSubscription, event.PrefixAddress, event.PrefixSummary,
		event.PrefixMessage, event.PrefixSlot, event.PrefixExpunged, event.PrefixMissing, event.PrefixJournal}
}

// copy is step 1. Where the old index cannot be opened its tables and logs are read
// one by one, and have several records of a key, deleted ones too: the newest by
// what it says of itself stays. A message that was freed long ago may come back so;
// that is better than the loss of one that was not.
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

// replay is step 2. It keeps to the order of the journal: a subscription, or what was
// freed, has nothing in its record that tells its age.
func (g *regain) replay() error {
	var at []byte
	sp := event.SpanOf([]byte{event.PrefixJournal})
	for {
		// In parts: the batch cannot be written out while an iterator is open on it.
		var events []*event.Event
		if err := stopEarly(each(g.to, sp, func(k, v []byte) error {
			at = append(at[:0], k...)
			g.saw(event.PositionOf(k)) // also of an event that cannot be read
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

func (g *regain) saw(p slot.Position) { g.known = max(g.known, p) }

// replayed takes one change in, where it says more than the records do.
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
	case *event.Change_Missing:
		return g.missed(rec.Missing)
	case *event.Change_Freed:
		return g.freed(rec.Freed)
	}
	return nil
}

// missed takes in that a message was given up, or found. The record has nothing that
// grows: as with subscriptions the order of the journal decides.
func (g *regain) missed(x *event.MissingRecord) error {
	if x.Message == nil {
		return nil
	}
	k := event.MissingKey(x.Message.Ref(), storage.UID(x.Message.Uid))
	if g.old.sound(keySpan(k)) {
		return nil
	}
	if x.Found {
		return g.to.Delete(k)
	}
	return g.to.Set(k, event.Marshal(x))
}

// newest calls set when neither record of the UID, live or tombstone, is as new.
// Where the old index is sound it does not: a record that is not there was freed
// after the event, and setting it would bring an expunged message back.
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
// is not sound.
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

// freed removes what earlier events, or copy, brought back, and a later event freed.
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
