package local

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// box returns a mailbox. When its record is lost it makes another, under the same ID
// and with the name that birth notes have of it: messages that the old index still has
// keep their place.
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
	g.rb.lost("%s: the record of mailbox %q; it is made again", a.Address, name)
	return g.newBox(a, ref.Mailbox, name, "")
}

// account returns an account. When its record is lost it makes another, under the
// address that most birth notes have.
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
				continue // another account has it by now
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
	g.rb.lost("account %s: its record; made again from birth notes without password, quota and subscriptions: mailnode user passwd %s", address, address)
	for _, sp := range specialMailboxes() {
		if err := g.to.Set(event.SubscriptionKey(id, sp.name), nil); err != nil {
			return nil, err
		}
	}
	return a, nil
}

// leap moves the account's counter of UIDVALIDITYs past all that can have been given
// out (law 2): of a counter that is lost or old nobody knows how far it had come.
func (g *regain) leap(a *event.AccountRecord) bool {
	return event.LeapUIDValidity(a, g.rb.o.Cluster, g.unclean(), g.validity[storage.AccountID(a.Id)], g.losses())
}

// losses counts the rebuilds of this slot, this one included: each leaps to a part of
// the range of its own, since what the one before gave out may be lost in its turn. The
// slot's record, which has the count, may be lost as well: then the number of the old
// index in quarantine tells.
func (g *regain) losses() int {
	before := 0
	if _, err := fmt.Sscanf(g.rb.mark.Old, "index-%d", &before); err != nil {
		before = 1
	}
	return max(before, int(g.slotRec.Losses)+1) + g.leaps
}

// newBox makes a mailbox, and the levels above it that are not there.
func (g *regain) newBox(a *event.AccountRecord, id storage.MailboxID, name string, use storage.SpecialUse) (*event.MailboxRecord, error) {
	canonical, err := storage.CanonicalMailboxName(name)
	if err != nil {
		canonical = fmt.Sprintf("Recovered/%016x", uint64(id))
	}
	b := &event.MailboxRecord{Account: a.Id, Id: uint64(id), SpecialUse: string(use), Changed: g.modSeq(a), Born: uint64(g.next)}
	g.takeName(b, canonical)
	if i := strings.LastIndexByte(b.Name, storage.Separator); i > 0 && g.byName(b.Ref().Account)[b.Name[:i]] == nil {
		if _, err := g.newBox(a, storage.MailboxID(randomID()), b.Name[:i], ""); err != nil {
			return nil, err
		}
	}
	g.boxes[b.Ref()] = b
	return b, g.renew(a, b)
}

// byName returns the live mailboxes of an account by name. What takes a name enters it.
func (g *regain) byName(id storage.AccountID) map[string]*event.MailboxRecord {
	if g.boxesByName == nil {
		g.boxesByName = map[storage.AccountID]map[string]*event.MailboxRecord{}
		for _, b := range g.sortedBoxes() {
			if !b.Deleted {
				g.byName(b.Ref().Account)[b.Name] = b
			}
		}
	}
	if g.boxesByName[id] == nil {
		g.boxesByName[id] = map[string]*event.MailboxRecord{}
	}
	return g.boxesByName[id]
}

// takeName gives a mailbox a name or, when another has that, the first of "name (2)",
// "name (3)", … that is free.
func (g *regain) takeName(b *event.MailboxRecord, name string) {
	names := g.byName(b.Ref().Account)
	b.Name = name
	for n := 2; names[b.Name] != nil && names[b.Name] != b; n++ {
		b.Name = fmt.Sprintf("%s (%d)", name, n)
	}
	names[b.Name] = b
}

// leapsMore is how many parts of a range a rebuild may use up.
const leapsMore = 16

// renew gives a mailbox a UIDVALIDITY that was never given out (law 2). Its messages
// keep their UIDs: clients forget what they have cached, and fetch it once more.
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

// mailboxes is step 6: each mailbox that is not proved complete gets a new UIDVALIDITY.
// One message that is lost is enough: its UID, or one above all that are left, could
// be given to another message, and a client that has cached the lost one would show
// that (law 2).
func (g *regain) mailboxes() error {
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
			b.Uidnext, b.UidOrigin = above, above // newBox made it before step 5 knew its messages
		}
		// Its record, its messages and its tombstones are all there, and fit each other.
		complete := g.old.sound(keySpan(event.MailboxKey(ref))) && g.old.sound(event.MessagesIn(ref, 0, ^storage.UID(0))) &&
			g.old.sound(event.ExpungedIn(ref)) && b.Uidnext > uint32(g.highest[ref]) && b.Uidvalidity < a.UidvalidityNext
		if !complete || given[ref.Account][b.Uidvalidity] {
			if err := g.renew(a, b); err != nil {
				return err
			}
		}
		given[ref.Account][b.Uidvalidity] = true
		if was := b.Name; !b.Deleted { // of two with one name, one is an old record
			if g.takeName(b, was); b.Name != was {
				b.Changed = g.modSeq(a)
			}
		}
	}
	return nil
}

// sortedBoxes returns the mailboxes in the order of their keys: what they are given
// must not depend on the order of a map.
func (g *regain) sortedBoxes() []*event.MailboxRecord {
	out := slices.Collect(maps.Values(g.boxes))
	slices.SortFunc(out, func(x, y *event.MailboxRecord) int {
		return cmp.Or(cmp.Compare(x.Account, y.Account), cmp.Compare(x.Id, y.Id))
	})
	return out
}
