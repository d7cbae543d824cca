package local

import (
	"errors"
	"maps"
	"slices"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// unnamed is step 7: it delivers again what only the packs still have.
func (g *regain) unnamed() error {
	numbers, err := g.s.packs.Packs()
	if err != nil {
		return err
	}
	for _, n := range numbers {
		if err := g.s.packs.Scan(n, g.unnamedBody, nil); err != nil && !errors.Is(err, blob.ErrDamaged) {
			return err
		}
		if err := g.to.room(); err != nil {
			return err
		}
	}
	return nil
}

// unnamedBody gives a body back to each account that its birth note names and that
// does not have it any more, unless the old index proves that no record which named the
// body is lost: then the account has expunged it. Without that proof a message that was
// expunged long ago comes back too, which is better than one that is lost (law 7).
func (g *regain) unnamedBody(f blob.Found) error {
	raw, found, err := g.to.Get(event.BodyKey(f.Ref))
	if err != nil || !found || string(raw) != string(encodeLocation(f.Location)) {
		return err // its body is damaged, or another place counts
	}
	has := map[storage.AccountID]bool{}
	var named uint64
	if err := each(g.to, namingSpan(f.Ref), func(k, v []byte) error {
		n, holds := decodeNaming(v)
		named += n
		has[storage.AccountID(be.Uint64(k[len(k)-8:]))] = holds
		return nil
	}); err != nil {
		return err
	}
	wanted, known := g.references(f.Ref)
	if !known || wanted > named {
		for _, b := range f.Note.Births {
			id := storage.AccountID(b.Account)
			if has[id] {
				continue
			}
			has[id] = true
			ok, err := g.giveBack(f, b)
			if err != nil {
				return err
			}
			if ok {
				named++
			}
		}
		if len(f.Note.Births) == 0 {
			g.rb.lost("body %s: its birth note names nobody", f.Ref)
		}
	}
	if named == 0 { // dead, as when its last reference goes: compaction frees its bytes
		return g.to.Delete(event.BodyKey(f.Ref))
	}
	return nil
}

// references returns how many records named a body; known is false where the old index
// is not sound.
func (g *regain) references(b slot.BodyRef) (n uint64, known bool) {
	k := event.RefsKey(b)
	if !g.old.Opened() || !g.old.sound(keySpan(k)) {
		return 0, false
	}
	err := g.s.guarded(func() error {
		v, found, err := g.old.Get(k)
		if err == nil && found {
			n, err = event.ParseRefs(b, v)
		}
		return err
	})
	return n, err == nil
}

// giveBack delivers a body again to one of its recipients: to the mailbox of its birth
// note, to the one that has this name now, or to one that is made for it. It reports
// whether it did: a body that cannot be read is named as lost.
func (g *regain) giveBack(f blob.Found, birth *blob.Birth) (bool, error) {
	if err := g.rb.spend(f.Location.Size); err != nil {
		return false, err
	}
	m := &event.MessageRecord{SystemFlags: birth.SystemFlags, Keywords: birth.Keywords, InternalDateUnix: birth.InternalDateUnix,
		Size: f.Location.Size, Guid: f.Ref.GUID[:], BodyId: uint64(f.Ref.ID), SavedUnix: int64(g.wall())}
	summary, err := g.s.scanBody(m, f.Location)
	if err != nil {
		g.rb.lost("%s %s: body %s: %v", birth.Address, birth.MailboxName, f.Ref, err)
		return false, nil
	}
	id := storage.AccountID(birth.Account)
	a, err := g.account(id)
	if err != nil {
		return false, err
	}
	b := g.boxes[storage.Ref{Account: id, Mailbox: storage.MailboxID(birth.Mailbox)}]
	if b == nil || b.Deleted {
		if other := g.byName(id)[birth.MailboxName]; other != nil {
			b = other
		}
	}
	if b == nil || b.Deleted {
		box := storage.MailboxID(birth.Mailbox)
		if b != nil {
			box = storage.MailboxID(randomID())
		}
		if b, err = g.newBox(a, box, birth.MailboxName, ""); err != nil {
			return false, err
		}
	}
	first, ok := event.TakeUIDs(b, g.unclean(), 1)
	if !ok { // the range is used up, also one that step 6 has just given
		delete(g.fresh, b.Ref())
		if err := g.renew(a, b); err != nil {
			return false, err
		}
		if first, ok = event.TakeUIDs(b, g.unclean(), 1); !ok {
			return false, storage.Errorf(storage.ErrLimit, "mailbox %q of %s: its UIDs are used up", b.Name, a.Address)
		}
	}
	m.Account, m.Mailbox, m.Uid, m.Modseq = a.Id, b.Id, uint32(first), g.modSeq(a)
	g.highest[b.Ref()] = max(g.highest[b.Ref()], first)
	g.rb.out.FromPacks++
	g.head.Births++
	g.head.BirthBytes += uint64(m.Size)
	if err := g.to.Set(event.SummaryKey(b.Ref(), first), summary); err != nil {
		return false, err
	}
	return true, g.to.Set(event.MessageKey(b.Ref(), first), event.Marshal(m))
}

// finish is step 8: it writes accounts, mailboxes and where the copy stands. Accounts
// come before mailboxes, because furnish makes some of these.
func (g *regain) finish() error {
	for _, id := range slices.Sorted(maps.Keys(g.accounts)) {
		a := g.accounts[id]
		if !a.Deleted {
			if err := g.furnish(a); err != nil {
				return err
			}
		}
		if err := g.to.Set(event.AccountKey(id), event.Marshal(a)); err != nil {
			return err
		}
	}
	for _, b := range g.sortedBoxes() {
		if err := g.to.Set(event.MailboxKey(b.Ref()), event.Marshal(b)); err != nil {
			return err
		}
		if err := g.to.room(); err != nil {
			return err
		}
	}
	// An account of which no record is left had UIDVALIDITYs all the same. A new account with
	// its address must begin behind them (law 2, event.SeedUIDValidity).
	if !g.old.Whole() || g.leaps > 0 {
		g.slotRec.Losses, g.slotRec.LossesUnclean = uint32(g.losses()), g.slotRec.Unclean
	}
	g.head.Position = uint64(g.next)
	if err := g.to.Set(event.HeadKey(), event.Marshal(&g.head)); err != nil {
		return err
	}
	if err := g.to.Set(event.SlotKey(), event.Marshal(&g.slotRec)); err != nil {
		return err
	}
	// There is no journal: a replica that follows takes the whole state.
	if err := g.to.Set(localKey(keyJournalStart), be.AppendUint64(nil, uint64(g.next))); err != nil {
		return err
	}
	all := event.SpanOf(localKey("named/"))
	return g.to.b.DeleteRange(all.Lower, all.Upper, nil)
}

// furnish makes an account's address record and its INBOX when they are lost, and the
// other special mailboxes for an account that the rebuild has made.
func (g *regain) furnish(a *event.AccountRecord) error {
	key := event.AddressKey(slot.Address(a.Address))
	if _, found, err := g.to.Get(key); err != nil {
		return err
	} else if !found && !g.old.sound(keySpan(key)) { // in a sound index its home is another slot
		rec := &event.AddressRecord{Address: a.Address, Account: a.Id, Slot: uint32(g.s.o.Slot), Generation: a.Generation}
		if err := g.to.Set(key, event.Marshal(rec)); err != nil {
			return err
		}
	}
	if g.old.Whole() {
		return nil
	}
	for _, sp := range specialMailboxes() {
		if g.byName(storage.AccountID(a.Id))[sp.name] != nil || sp.name != "INBOX" && !slices.Contains(g.rb.out.Made, slot.Address(a.Address)) {
			continue
		}
		if _, err := g.newBox(a, storage.MailboxID(randomID()), sp.name, sp.use); err != nil {
			return err
		}
	}
	return nil
}
