package local

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// sweep calls fn for the records of a span as they were when it began with each
// thousand; fn may write.
func (g *regain) sweep(sp event.Span, fn func(key, value []byte) error) error {
	for {
		var keys, values [][]byte
		if err := stopEarly(each(g.to, sp, func(k, v []byte) error {
			keys, values = append(keys, bytes.Clone(k)), append(values, bytes.Clone(v))
			if len(keys) == storage.MaxTxnRecords {
				return errEnough
			}
			return nil
		})); err != nil {
			return err
		}
		for i, k := range keys {
			if err := fn(k, values[i]); err != nil {
				return err
			}
		}
		if err := g.to.room(); err != nil {
			return err
		}
		if len(keys) < storage.MaxTxnRecords {
			return nil
		}
		sp.Lower = append(keys[len(keys)-1], 0)
	}
}

// readable decodes a record; one that cannot be read, or lies under another key,
// is dropped and named.
func (g *regain) readable(key, value []byte, into proto.Message, keyOf func() []byte) (bool, error) {
	if unmarshal(value, into) == nil && bytes.Equal(keyOf(), key) {
		return true, nil
	}
	g.rb.lost("record %q: it cannot be read", key)
	return false, g.to.Delete(key)
}

// holders reads accounts and mailboxes, and what is known of positions.
func (g *regain) holders() error {
	if err := g.sweep(event.SpanOf([]byte{event.PrefixAccount}), func(k, v []byte) error {
		a := &event.AccountRecord{}
		ok, err := g.readable(k, v, a, func() []byte { return event.AccountKey(storage.AccountID(a.Id)) })
		if ok {
			g.accounts[storage.AccountID(a.Id)] = a
		}
		return err
	}); err != nil {
		return err
	}
	if err := g.sweep(event.SpanOf([]byte{event.PrefixMailbox}), func(k, v []byte) error {
		b := &event.MailboxRecord{}
		ok, err := g.readable(k, v, b, func() []byte { return event.MailboxKey(b.Ref()) })
		if ok {
			id := b.Ref().Account
			g.boxes[b.Ref()], g.validity[id] = b, max(g.validity[id], b.Uidvalidity)
			g.sawModSeq(b.Ref().Account, b.Changed)
			g.head.SlotClockMs = max(g.head.SlotClockMs, b.DeletedClockMs)
		}
		return err
	}); err != nil {
		return err
	}
	if err := g.sweep(event.SpanOf([]byte{event.PrefixAddress}), func(k, v []byte) error {
		a := &event.AddressRecord{}
		_, err := g.readable(k, v, a, func() []byte { return event.AddressKey(slot.Address(a.Address)) })
		return err
	}); err != nil {
		return err
	}
	return g.positions()
}

func (g *regain) sawModSeq(id storage.AccountID, m uint64) {
	base := uint64(0)
	if a := g.accounts[id]; a != nil {
		base = a.ModseqBase
	}
	if m > base {
		g.saw(slot.Position(m - base))
	}
}

// positions finds the new head: past everything that is known, and far where
// something may have been given out that is not (law 3).
func (g *regain) positions() error {
	var head event.HeadRecord
	if raw, _, err := g.to.Get(event.HeadKey()); err != nil {
		return err
	} else if unmarshal(raw, &head) == nil {
		g.saw(slot.Position(head.Position))
		g.head.SlotClockMs, g.head.Births, g.head.BirthBytes = max(g.head.SlotClockMs, head.SlotClockMs), head.Births, head.BirthBytes
	}
	if raw, _, err := g.to.Get(event.SlotKey()); err != nil {
		return err
	} else if unmarshal(raw, &g.slotRec) != nil {
		g.slotRec = event.SlotRecord{}
	}
	if err := each(g.to, event.SpanOf([]byte{event.PrefixMessage}), func(_, v []byte) error {
		m := &event.MessageRecord{}
		if unmarshal(v, m) == nil {
			g.sawModSeq(storage.AccountID(m.Account), m.Modseq)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := each(g.to, event.SpanOf([]byte{event.PrefixExpunged}), func(_, v []byte) error {
		x := &event.ExpungedRecord{}
		if unmarshal(v, x) == nil {
			g.sawModSeq(storage.AccountID(x.Message.GetAccount()), x.Message.GetModseq())
			g.head.SlotClockMs = max(g.head.SlotClockMs, x.SlotClockMs)
		}
		return nil
	}); err != nil {
		return err
	}
	g.slotRec.Unclean = max(g.slotRec.Unclean, uint32(g.rb.ro.Unclean))
	known, last := g.known.Epoch(), g.slotRec.SlotLineage().Last()
	epoch := max(known, last, 1)
	if !g.old.Whole() {
		epoch = max(epoch, g.rb.ro.Epoch)
	}
	if epoch > last {
		g.slotRec.Lineage = append(g.slotRec.Lineage, &event.Branch{Epoch: uint32(epoch), After: uint64(g.known), Unclean: g.slotRec.Unclean})
		if known == epoch {
			g.slotRec.Lineage[len(g.slotRec.Lineage)-1].After = uint64(slot.At(epoch, 0))
		}
	}
	switch {
	case known == epoch && g.old.Whole():
		g.next = slot.At(epoch, g.known.N()+uncleanJump)
	case known == epoch: // what was lost may have gone on for long
		g.next = slot.At(epoch, max(g.known.N()+uncleanJump, g.far()))
	default:
		g.next = slot.At(epoch, g.far())
	}
	return nil
}

// far is further than any number of events could have come in that epoch, and
// further each time: the wall clock seeds it (law 11).
func (g *regain) far() uint64 {
	return min(uint64(g.wall())<<8, slot.MaxN/4*3)
}

func (g *regain) wall() uint32 { return uint32(g.rb.o.Clock.Wall().Unix()) }

func (g *regain) modSeq(a *event.AccountRecord) uint64 { return uint64(g.next) + a.ModseqBase }

func (g *regain) unclean() slot.UncleanCount { return slot.UncleanCount(g.slotRec.Unclean) }

// bodies notes where each body lies, and what birth notes say of accounts and
// mailboxes that are lost.
func (g *regain) bodies() error {
	return g.rb.places(g.s, g.to, func(f blob.Found) {
		for _, b := range f.Note.Births {
			ref := storage.Ref{Account: storage.AccountID(b.Account), Mailbox: storage.MailboxID(b.Mailbox)}
			if g.accounts[ref.Account] != nil && g.boxes[ref] != nil {
				continue
			}
			r := g.births[ref.Account]
			if r == nil {
				r = &remembered{map[slot.Address]int{}, map[storage.MailboxID]string{}}
				g.births[ref.Account] = r
			}
			if b.Address != "" {
				r.addresses[slot.Address(b.Address)]++
			}
			r.boxes[ref.Mailbox] = b.MailboxName
		}
	})
}

// messages settles live and expunged messages.
func (g *regain) messages() error {
	if err := g.sweep(event.SpanOf([]byte{event.PrefixMessage}), g.message); err != nil {
		return err
	}
	if err := g.sweep(event.SpanOf([]byte{event.PrefixExpunged}), func(k, v []byte) error {
		x := &event.ExpungedRecord{}
		ok, err := g.readable(k, v, x, func() []byte {
			return event.ExpungedKey(x.Message.Ref(), storage.UID(x.Message.GetUid()))
		})
		if err != nil || !ok {
			return err
		}
		return g.names(x.Message, !x.Moved && !x.Restored)
	}); err != nil {
		return err
	}
	return g.sweep(event.SpanOf([]byte{event.PrefixSummary}), func(k, _ []byte) error {
		if len(k) == messageKeyBytes {
			if m, _, err := messageOf(g.to, event.RefOf(k), event.UIDOf(k)); err != nil || m != nil {
				return err
			}
		}
		return g.to.Delete(k)
	})
}

func (g *regain) message(k, v []byte) error {
	m := &event.MessageRecord{}
	ok, err := g.readable(k, v, m, func() []byte { return event.MessageKey(m.Ref(), storage.UID(m.Uid)) })
	if err != nil || !ok {
		return err
	}
	ref, uid := m.Ref(), storage.UID(m.Uid)
	tk := event.ExpungedKey(ref, uid)
	raw, found, err := g.to.Get(tk)
	if err != nil {
		return err
	}
	if x := (&event.ExpungedRecord{}); found && unmarshal(raw, x) == nil && x.Message.GetModseq() > m.Modseq {
		return g.to.Delete(k) // what was live once
	} else if found {
		if err := g.to.Delete(tk); err != nil {
			return err
		}
	}
	if _, here, err := g.to.Get(event.BodyKey(m.Body())); err != nil {
		return err
	} else if !here {
		return g.missing(k, m)
	}
	g.rb.out.Kept++
	return g.names(m, true)
}

// names takes in a message or tombstone: whose it is, and which body it names.
// What says that the message lives on elsewhere does not hold the body for its
// account: if no other record does, the message is lost (law 7).
func (g *regain) names(m *event.MessageRecord, holds bool) error {
	ref := m.Ref()
	if _, err := g.box(ref); err != nil {
		return err
	}
	g.highest[ref] = max(g.highest[ref], storage.UID(m.Uid))
	k := namedKey(m.Body(), ref.Account)
	raw, _, err := g.to.Get(k)
	if err != nil {
		return err
	}
	n, held := namedBy(raw)
	return g.to.Set(k, encodeNamed(n+1, held || holds))
}

// missing removes a message whose body is nowhere, and records it (law 7).
func (g *regain) missing(key []byte, m *event.MessageRecord) error {
	b, err := g.box(m.Ref())
	if err != nil {
		return err
	}
	a := g.accounts[m.Ref().Account]
	g.rb.lost("%s %s uid %d: its body %s is in no pack; it is recorded as missing", a.Address, b.Name, m.Uid, m.Body())
	x := &event.MissingRecord{Message: m, Address: a.Address, MailboxName: b.Name, SlotClockMs: g.head.SlotClockMs}
	if err := g.to.Set(event.MissingKey(m.Ref(), storage.UID(m.Uid)), event.Marshal(x)); err != nil {
		return err
	}
	if err := g.to.Delete(key); err != nil {
		return err
	}
	gone := proto.CloneOf(m)
	gone.Modseq = g.modSeq(a)
	if err := g.to.Set(event.ExpungedKey(m.Ref(), storage.UID(m.Uid)),
		event.Marshal(&event.ExpungedRecord{Message: gone, SlotClockMs: g.head.SlotClockMs})); err != nil {
		return err
	}
	return g.names(gone, true)
}

// account gives an account, made anew from birth notes when its record is lost.
func (g *regain) account(id storage.AccountID) (*event.AccountRecord, error) {
	if a := g.accounts[id]; a != nil {
		return a, nil
	}
	address := slot.Address(fmt.Sprintf("lost-%016x@recovered.invalid", uint64(id)))
	if r := g.births[id]; r != nil {
		most := 0
		for _, a := range slices.Sorted(maps.Keys(r.addresses)) {
			rec := &event.AddressRecord{}
			raw, found, err := g.to.Get(event.AddressKey(a))
			if err != nil {
				return nil, err
			}
			if found && unmarshal(raw, rec) == nil && !rec.Erased && rec.Account != uint64(id) {
				continue // it is another account's
			}
			if r.addresses[a] > most {
				address, most = a, r.addresses[a]
			}
		}
	}
	a := &event.AccountRecord{Id: uint64(id), Address: string(address), CreatedUnix: int64(g.wall()), Generation: 1}
	g.accounts[id] = a
	if !g.leap(a) {
		return nil, storage.Errorf(storage.ErrLimit, "account %s: its UIDVALIDITYs are used up", address)
	}
	g.rb.out.Made = append(g.rb.out.Made, address)
	g.rb.lost("account %s: its record; made anew from birth notes without password, quota and subscriptions: mailnode user passwd %s", address, address)
	for _, sp := range specialMailboxes() {
		if err := g.to.Set(event.SubscriptionKey(id, sp.name), nil); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// leap moves the account's counter of UIDVALIDITYs past all that can have been
// given out (law 2), also after the rebuilds before this one.
func (g *regain) leap(a *event.AccountRecord) bool {
	return event.LeapUIDValidity(a, g.rb.o.Cluster, g.unclean(), g.validity[storage.AccountID(a.Id)], g.losses())
}

// losses counts this rebuild and those before it, of which the slot's record may
// be lost too: then the old indexes in quarantine tell.
func (g *regain) losses() int {
	before := 0
	if _, err := fmt.Sscanf(g.rb.mark.Old, "index-%d", &before); err != nil {
		before = 1
	}
	return max(before, int(g.slotRec.Losses)+1) + g.leaps
}
