package local

import (
	"bytes"
	"encoding/binary"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// holders is step 3: it reads accounts and mailboxes, and what is known of positions.
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
	if err := g.positions(); err != nil {
		return err
	}
	return g.leapPastOld()
}

// sweep calls fn for the records of a span; fn may write. It reads a thousand, closes
// the iterator, and only then calls fn: an iterator does not see what fn writes, and
// while one is open the batch cannot be written out (sink.room).
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

// readable decodes a record; one that cannot be read, or lies under a key that is
// not its own, is dropped and named.
func (g *regain) readable(key, value []byte, into proto.Message, keyOf func() []byte) (bool, error) {
	if unmarshal(value, into) == nil && bytes.Equal(keyOf(), key) {
		return true, nil
	}
	g.rb.lost("record %q: it cannot be read", key)
	return false, g.to.Delete(key)
}

// sawModSeq takes a MODSEQ for the position that it is made of. The base of an account
// whose record is lost is not known: its MODSEQs count in full, which only puts the
// new head further away.
func (g *regain) sawModSeq(id storage.AccountID, m uint64) {
	base := uint64(0)
	if a := g.accounts[id]; a != nil {
		base = a.ModseqBase
	}
	if m > base {
		g.saw(slot.Position(m - base))
	}
}

// positions finds the highest position that is known: of the head, of the journal
// (replay) and of every MODSEQ, since the head that was found may be an old record.
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
	g.jump()
	return nil
}

// jump sets the new head: past every position that is known, by as much as after an
// unclean stop (LAWS §4.9), and far past it where the old index is not sound. Else a
// MODSEQ that clients were shown could be given out a second time, and they would
// never hear of that change (law 3).
func (g *regain) jump() {
	g.slotRec.Unclean = max(g.slotRec.Unclean, uint32(g.rb.ro.Unclean))
	known, last := g.known.Epoch(), g.slotRec.SlotLineage().Last()
	epoch := max(known, last, 1)
	// What is lost may be all that this copy did in Raft's epoch. When nothing is lost it
	// did not serve in that epoch: its lineage would say so.
	if !g.old.Whole() {
		epoch = max(epoch, g.rb.ro.Epoch)
	}
	if epoch > last {
		g.slotRec.Lineage = append(g.slotRec.Lineage, &event.Branch{Epoch: uint32(epoch), After: uint64(g.known), Unclean: g.slotRec.Unclean})
		if known == epoch { // its events outlived the record that says where it began
			g.slotRec.Lineage[len(g.slotRec.Lineage)-1].After = uint64(slot.At(epoch, 0))
		}
	}
	switch {
	case known == epoch && g.old.Whole():
		g.next = slot.At(epoch, g.known.N()+uncleanJump)
	case known == epoch: // the lost part may have gone on for long
		g.next = slot.At(epoch, max(g.known.N()+uncleanJump, g.far()))
	default:
		g.next = slot.At(epoch, g.far())
	}
}

// far is further than the events of any epoch have come: 256 for each second since
// 1970. It grows with the time, because the head that the last rebuild set may be lost
// as well. A wrong clock is no danger to what is known: jump goes past that in any
// case (law 11).
func (g *regain) far() uint64 {
	return min(uint64(g.wall())<<8, slot.MaxN/4*3)
}

// leapPastOld leaps where an account's record may be an old one. It does so before step 5
// makes mailboxes in the place of lost ones: their UIDVALIDITYs come from these counters.
func (g *regain) leapPastOld() error {
	for _, id := range slices.Sorted(maps.Keys(g.accounts)) {
		if a := g.accounts[id]; !g.old.sound(keySpan(event.AccountKey(id))) && !g.leap(a) {
			return storage.Errorf(storage.ErrLimit, "account %s: its UIDVALIDITYs are used up", a.Address)
		}
	}
	return nil
}

func (g *regain) wall() uint32 { return uint32(g.rb.o.Clock.Wall().Unix()) }

func (g *regain) modSeq(a *event.AccountRecord) uint64 { return uint64(g.next) + a.ModseqBase }

func (g *regain) unclean() slot.UncleanCount { return slot.UncleanCount(g.slotRec.Unclean) }

// bodies is step 4: it enters where each body lies, and notes what birth notes say of
// accounts and mailboxes whose record is lost.
func (g *regain) bodies() error {
	return g.rb.places(g.s, g.to, func(f blob.Found) {
		for _, b := range f.Note.Births {
			ref := storage.Ref{Account: storage.AccountID(b.Account), Mailbox: storage.MailboxID(b.Mailbox)}
			if g.accounts[ref.Account] == nil || g.boxes[ref] == nil {
				g.remember(ref, b.Address, b.MailboxName)
			}
		}
	})
}

// remember notes what an account and a mailbox were called whose record is lost.
func (g *regain) remember(ref storage.Ref, address, box string) {
	r := g.births[ref.Account]
	if r == nil {
		r = &remembered{map[slot.Address]int{}, map[storage.MailboxID]string{}}
		g.births[ref.Account] = r
	}
	if address != "" {
		r.addresses[slot.Address(address)]++
	}
	r.boxes[ref.Mailbox] = box
}

// messages is step 5: it decides what is live and what is expunged, and drops the
// envelopes of neither. Live ones come first: message drops tombstones that are
// obsolete, and those must not count as naming a body.
func (g *regain) messages() error {
	if err := g.sweep(event.SpanOf([]byte{event.PrefixMissing}), g.stillMissing); err != nil {
		return err
	}
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
		return g.naming(x.Message, !x.Moved && !x.Restored)
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

// message settles a UID that has a live record. When there is a tombstone as well
// (copy found both, or replay put one beside the other) the higher MODSEQ is the newer.
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
		return g.to.Delete(k) // it was expunged since
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
	return g.naming(m, true)
}

// stillMissing makes the account of a missing message again when that is lost: the note
// may be all that is left of it, and would be forgotten with it (law 7).
func (g *regain) stillMissing(k, v []byte) error {
	x := &event.MissingRecord{}
	ok, err := g.readable(k, v, x, func() []byte {
		if x.Message == nil {
			return nil
		}
		return event.MissingKey(x.Message.Ref(), storage.UID(x.Message.Uid))
	})
	if err != nil || !ok {
		return err
	}
	ref := x.Message.Ref()
	if g.accounts[ref.Account] != nil || g.old.sound(keySpan(event.AccountKey(ref.Account))) {
		return nil
	}
	g.remember(ref, x.Address, x.MailboxName)
	_, err = g.account(ref.Account)
	return err
}

// naming takes in a message or tombstone: whose it is, and which body it names. holds
// is false for the tombstone of a message that lives on under another UID, after a
// MOVE or an undelete. It does not hold the body for its account: when no other record
// does, the record of where the message lives now is lost, and step 7 delivers the
// message again (law 7).
func (g *regain) naming(m *event.MessageRecord, holds bool) error {
	ref := m.Ref()
	if _, err := g.box(ref); err != nil {
		return err
	}
	g.highest[ref] = max(g.highest[ref], storage.UID(m.Uid))
	k := namingKey(m.Body(), ref.Account)
	raw, _, err := g.to.Get(k)
	if err != nil {
		return err
	}
	n, held := decodeNaming(raw)
	return g.to.Set(k, encodeNaming(n+1, held || holds))
}

// namingKey is where step 5 notes for step 7 that records of an account name a body.
// The notes lie in the index, because there may be as many as messages; finish removes
// them.
func namingKey(b slot.BodyRef, a storage.AccountID) []byte {
	return be.AppendUint64(namingSpan(b).Lower, uint64(a))
}

func namingSpan(b slot.BodyRef) event.Span {
	return event.SpanOf(append(localKey("named/"), event.BodyKey(b)[1:]...))
}

// encodeNaming makes such a note: how many records of the account name the body, and
// whether one of them holds it.
func encodeNaming(n uint64, holds bool) []byte {
	n <<= 1
	if holds {
		n |= 1
	}
	return binary.AppendUvarint(nil, n)
}

func decodeNaming(v []byte) (n uint64, holds bool) {
	n, _ = binary.Uvarint(v)
	return n >> 1, n&1 == 1
}

// missing records a message as missing whose body is in no pack (law 7). It leaves a
// tombstone with a MODSEQ that no client was ever shown, so that all of them see the
// message go.
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
	return g.naming(gone, true)
}
