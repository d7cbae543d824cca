package local

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// provedTail is how many records at the end of each pack have their bodies proved:
// there a crash may have left some that were never synced.
const provedTail = 64

// places enters where each body lies whose record's header proves.
func (rb *rebuild) places(s *Slot, to *sink, see func(blob.Found)) error {
	numbers, err := s.packs.Packs()
	if err != nil {
		return err
	}
	for i, n := range numbers {
		var tail []blob.Found
		enter := func(f blob.Found, proved bool) error {
			if see != nil {
				see(f)
			}
			return rb.place(s, to, f, proved)
		}
		err := s.packs.Scan(n, func(f blob.Found) error {
			if err := rb.spend(int64(f.Location.NoteBytes) + 4096); err != nil {
				return err
			}
			if tail = append(tail, f); len(tail) <= provedTail {
				return nil
			}
			first := tail[0]
			tail = tail[1:]
			return enter(first, false)
		}, func(offset, bytes int64) {
			rb.lost("pack %d: %d bytes at %d are no record", n, bytes, offset)
		})
		for j := 0; err == nil && j < len(tail); j++ {
			err = enter(tail[j], true)
		}
		// A pack that cannot be read now is no damaged one: the rebuild ends, and is
		// tried again.
		if err != nil && blob.Unread(err) {
			return fmt.Errorf("read pack %d: %w; if the disk is lost there, move that pack out of %q: the rebuild goes on without it", n, err, s.o.PacksDir)
		}
		if errors.Is(err, blob.ErrDamaged) {
			rb.lost("pack %d: %v", n, err)
			err = nil
		}
		if err == nil {
			err = to.room()
		}
		if err != nil {
			return err
		}
		if rb.ro.Progress != nil {
			rb.ro.Progress(int64(i+1), int64(len(numbers)))
		}
	}
	return nil
}

// place enters one; of two places the one that proves counts, the later when both do.
func (rb *rebuild) place(s *Slot, to *sink, f blob.Found, prove bool) error {
	_, twice, err := to.Get(event.BodyKey(f.Ref))
	if err != nil {
		return err
	}
	if prove || twice {
		if err := rb.spend(f.Location.Size); err != nil {
			return err
		}
		b, err := s.packs.Open(f.Ref, f.Location)
		if err != nil {
			if !twice {
				rb.lost("body %s in pack %d at %d: %v", f.Ref, f.Location.Pack, f.Location.Offset, err)
			}
			return nil
		}
		b.Close()
	}
	if !twice {
		rb.out.Bodies++
	}
	return to.Set(event.BodyKey(f.Ref), encodeLocation(f.Location))
}

// box gives a mailbox, made anew when its record is lost.
func (g *regain) box(ref storage.Ref) (*event.MailboxRecord, error) {
	if b := g.boxes[ref]; b != nil {
		_, err := g.account(ref.Account)
		return b, err
	}
	a, err := g.account(ref.Account)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("Recovered/%016x", uint64(ref.Mailbox))
	if r := g.births[ref.Account]; r != nil && r.boxes[ref.Mailbox] != "" {
		name = r.boxes[ref.Mailbox]
	}
	g.rb.lost("%s: the record of mailbox %q; it is made anew", a.Address, name)
	return g.newBox(a, ref.Mailbox, name, "")
}

// newBox makes a mailbox and the levels above it.
func (g *regain) newBox(a *event.AccountRecord, id storage.MailboxID, name string, use storage.SpecialUse) (*event.MailboxRecord, error) {
	canonical, err := storage.CanonicalMailboxName(name)
	if err != nil {
		canonical = fmt.Sprintf("Recovered/%016x", uint64(id))
	}
	b := &event.MailboxRecord{Account: a.Id, Id: uint64(id), SpecialUse: string(use), Changed: g.modSeq(a), Born: uint64(g.next)}
	g.takeName(b, canonical)
	if i := strings.LastIndexByte(b.Name, storage.Separator); i > 0 && g.named(b.Ref().Account)[b.Name[:i]] == nil {
		if _, err := g.newBox(a, storage.MailboxID(randomID()), b.Name[:i], ""); err != nil {
			return nil, err
		}
	}
	g.boxes[b.Ref()] = b
	return b, g.renew(a, b)
}

// leapsMore bounds how many parts of a range a rebuild may go on to.
const leapsMore = 16

// renew gives a mailbox a UIDVALIDITY that was never given out (law 2).
func (g *regain) renew(a *event.AccountRecord, b *event.MailboxRecord) error {
	if g.fresh[b.Ref()] {
		return nil
	}
	g.fresh[b.Ref()] = true
	event.MarkUnclean(b, g.unclean())
	b.Uidnext = max(b.Uidnext, uint32(g.highest[b.Ref()])+1)
	b.Changed = g.modSeq(a)
	g.rb.out.NewUIDValidity++
	if event.NewUIDValidity(a, b, g.unclean()) {
		return nil
	}
	for g.leap(a) { // a part of the range was used up: the next one
		if event.NewUIDValidity(a, b, g.unclean()) {
			return nil
		}
		if g.leaps++; g.leaps > leapsMore {
			break
		}
	}
	return storage.Errorf(storage.ErrLimit, "mailbox %q of %s: its UIDs are used up", b.Name, a.Address)
}

// named gives the mailboxes of an account by name.
func (g *regain) named(id storage.AccountID) map[string]*event.MailboxRecord {
	if g.inNames == nil {
		g.inNames = map[storage.AccountID]map[string]*event.MailboxRecord{}
		for _, b := range g.sortedBoxes() {
			if !b.Deleted {
				g.named(b.Ref().Account)[b.Name] = b
			}
		}
	}
	if g.inNames[id] == nil {
		g.inNames[id] = map[string]*event.MailboxRecord{}
	}
	return g.inNames[id]
}

// takeName names a mailbox so, or the first of "name (2)", "name (3)", … that is free.
func (g *regain) takeName(b *event.MailboxRecord, name string) {
	names := g.named(b.Ref().Account)
	b.Name = name
	for n := 2; names[b.Name] != nil && names[b.Name] != b; n++ {
		b.Name = fmt.Sprintf("%s (%d)", name, n)
	}
	names[b.Name] = b
}

// sortedBoxes gives the mailboxes in the order of their keys.
func (g *regain) sortedBoxes() []*event.MailboxRecord {
	out := slices.Collect(maps.Values(g.boxes))
	slices.SortFunc(out, func(x, y *event.MailboxRecord) int {
		return cmp.Or(cmp.Compare(x.Account, y.Account), cmp.Compare(x.Id, y.Id))
	})
	return out
}

// place decides which mailboxes are proved complete; the others get a new
// UIDVALIDITY, with the UIDs that they have.
func (g *regain) place() error {
	for _, id := range slices.Sorted(maps.Keys(g.accounts)) {
		if a := g.accounts[id]; !g.old.sound(keySpan(event.AccountKey(id))) {
			if !g.leap(a) {
				return storage.Errorf(storage.ErrLimit, "account %s: its UIDVALIDITYs are used up", a.Address)
			}
		}
	}
	given := map[storage.AccountID]map[uint32]bool{}
	for _, b := range g.sortedBoxes() {
		ref := b.Ref()
		a, err := g.account(ref.Account)
		if err != nil {
			return err
		}
		if given[ref.Account] == nil {
			given[ref.Account] = map[uint32]bool{}
		}
		if above := uint32(g.highest[ref]) + 1; g.fresh[ref] && b.Uidnext < above {
			b.Uidnext, b.UidOrigin = above, above // it was made before its messages were known
		}
		complete := g.old.sound(keySpan(event.MailboxKey(ref))) && g.old.sound(event.MessagesIn(ref, 0, ^storage.UID(0))) &&
			g.old.sound(event.ExpungedIn(ref)) && b.Uidnext > uint32(g.highest[ref]) && b.Uidvalidity < a.UidvalidityNext
		if !complete || given[ref.Account][b.Uidvalidity] {
			if err := g.renew(a, b); err != nil {
				return err
			}
		}
		given[ref.Account][b.Uidvalidity] = true
		if was := b.Name; !b.Deleted { // two of one name: one of them is an old record
			if g.takeName(b, was); b.Name != was {
				b.Changed = g.modSeq(a)
			}
		}
	}
	return nil
}

// unnamed gives back what only the packs have: to each account that a birth note
// names, unless the account has the body already, or the old index proves that
// nothing that named it is lost.
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

func (g *regain) unnamedBody(f blob.Found) error {
	raw, found, err := g.to.Get(event.BodyKey(f.Ref))
	if err != nil || !found || string(raw) != string(encodeLocation(f.Location)) {
		return err // damaged, or it lies elsewhere too
	}
	has := map[storage.AccountID]bool{}
	var named uint64
	if err := each(g.to, namedSpan(f.Ref), func(k, v []byte) error {
		n, holds := namedBy(v)
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
			ok, err := g.give(f, b)
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
	if named == 0 { // as when its last reference goes: what is in the pack is dead
		return g.to.Delete(event.BodyKey(f.Ref))
	}
	return nil
}

// references gives how many references a body had, when the old index knows.
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

// give makes a message of a body for one of its recipients.
func (g *regain) give(f blob.Found, birth *blob.Birth) (bool, error) {
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
		if other := g.named(id)[birth.MailboxName]; other != nil {
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
	if !ok {
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

// finish writes accounts, mailboxes and where the copy stands.
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
	if !g.old.Whole() || g.leaps > 0 { // who is not known any more had numbers all the same (law 2)
		g.slotRec.Losses, g.slotRec.LossesUnclean = uint32(g.losses()), g.slotRec.Unclean
	}
	g.head.Position = uint64(g.next)
	if err := g.to.Set(event.HeadKey(), event.Marshal(&g.head)); err != nil {
		return err
	}
	if err := g.to.Set(event.SlotKey(), event.Marshal(&g.slotRec)); err != nil {
		return err
	}
	// There is no journal: whoever follows gets the whole state.
	if err := g.to.Set(localKey(keyJournalStart), be.AppendUint64(nil, uint64(g.next))); err != nil {
		return err
	}
	all := event.SpanOf(localKey("named/"))
	return g.to.b.DeleteRange(all.Lower, all.Upper, nil)
}

// furnish sees that an account has its address and an INBOX.
func (g *regain) furnish(a *event.AccountRecord) error {
	key := event.AddressKey(slot.Address(a.Address))
	if _, found, err := g.to.Get(key); err != nil {
		return err
	} else if !found && !g.old.sound(keySpan(key)) { // else it is kept in another slot
		rec := &event.AddressRecord{Address: a.Address, Account: a.Id, Slot: uint32(g.s.o.Slot), Generation: a.Generation}
		if err := g.to.Set(key, event.Marshal(rec)); err != nil {
			return err
		}
	}
	if g.old.Whole() {
		return nil
	}
	for _, sp := range specialMailboxes() {
		if g.named(storage.AccountID(a.Id))[sp.name] != nil || sp.name != "INBOX" && !slices.Contains(g.rb.out.Made, slot.Address(a.Address)) {
			continue
		}
		if _, err := g.newBox(a, storage.MailboxID(randomID()), sp.name, sp.use); err != nil {
			return err
		}
	}
	return nil
}
