package event

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// Records is the index as Apply sees it. A value that Get returns is not kept.
type Records interface {
	Get(key []byte) (value []byte, found bool, err error)
	Set(key, value []byte)
	Delete(key []byte)
}

// Apply changes the records as the event says, moves the head, and returns the
// digests of the mailboxes that the event touches. The event must follow the
// head that r holds, or be the one that made it (applied again, it changes
// nothing). After an error r may hold a part of the event: throw it away.
//
// An event that carries digests is compared with what came out (law 8): a
// difference is storage.ErrCorrupt. One that carries none gets them.
func Apply(r Records, ev *Event) error {
	a := applier{r: r, ev: ev, stats: map[storage.Ref]*MailboxStats{}, refs: map[slot.BodyRef]int{}}
	if err := a.head(); err != nil {
		return err
	}
	// Names leave the name index before any comes in, so that swaps and chains
	// of renames in one event are nothing special.
	for _, c := range ev.Changes {
		if m := c.GetMailbox(); m != nil {
			if err := a.unname(m); err != nil {
				return err
			}
		}
	}
	for i, c := range ev.Changes {
		if err := a.change(c); err != nil {
			return fmt.Errorf("apply event %s change %d: %w", slot.Position(ev.Position), i, err)
		}
	}
	return a.finish()
}

type applier struct {
	r     Records
	ev    *Event
	stats map[storage.Ref]*MailboxStats
	order []storage.Ref // of stats, as first touched
	refs  map[slot.BodyRef]int
	named []slot.BodyRef // of refs, as first touched
}

// name counts n more references to a body.
func (a *applier) name(b slot.BodyRef, n int) {
	if _, ok := a.refs[b]; !ok {
		a.named = append(a.named, b)
	}
	a.refs[b] += n
}

func (a *applier) head() error {
	var h HeadRecord
	if _, err := Load(a.r, HeadKey(), &h); err != nil {
		return err
	}
	if h.Position != a.ev.Previous && h.Position != a.ev.Position {
		return storage.Errorf(storage.ErrDiverged, "apply event %s: it follows %s, the head is %s",
			slot.Position(a.ev.Position), slot.Position(a.ev.Previous), slot.Position(h.Position))
	}
	if a.ev.Position <= a.ev.Previous {
		return storage.Errorf(storage.ErrCorrupt, "apply event %s: it follows %s, which is not before it",
			slot.Position(a.ev.Position), slot.Position(a.ev.Previous))
	}
	again := h.Position == a.ev.Position
	h.Position, h.SlotClockMs = a.ev.Position, a.ev.SlotClockMs
	for _, c := range a.ev.Changes {
		if m := c.GetMessage(); m != nil && len(m.Summary) > 0 && !again {
			h.Births++
			h.BirthBytes += uint64(m.Size)
		}
	}
	Store(a.r, HeadKey(), &h)
	return nil
}

func (a *applier) unname(m *MailboxRecord) error {
	var old MailboxRecord
	found, err := Load(a.r, MailboxKey(m.Ref()), &old)
	if err != nil || !found || old.Deleted {
		return err
	}
	a.r.Delete(NameKey(storage.AccountID(m.Account), old.Name))
	return nil
}

func (a *applier) change(c *Change) error {
	switch rec := c.Record.(type) {
	case *Change_Account:
		Store(a.r, AccountKey(storage.AccountID(rec.Account.Id)), rec.Account)
	case *Change_Address:
		Store(a.r, AddressKey(slot.Address(rec.Address.Address)), rec.Address)
	case *Change_Mailbox:
		return a.mailbox(rec.Mailbox)
	case *Change_Message:
		return a.message(rec.Message)
	case *Change_Expunged:
		return a.expunged(rec.Expunged)
	case *Change_Subscription:
		k := SubscriptionKey(storage.AccountID(rec.Subscription.Account), rec.Subscription.Name)
		if rec.Subscription.Removed {
			a.r.Delete(k)
		} else {
			a.r.Set(k, nil)
		}
	case *Change_Slot:
		Store(a.r, SlotKey(), rec.Slot)
	case *Change_Freed:
		return a.freed(rec.Freed)
	case *Change_Missing:
		return a.missing(rec.Missing)
	default:
		return storage.Errorf(storage.ErrInvalid, "a kind of change that this release does not know: upgrade this node")
	}
	return nil
}

func (a *applier) mailbox(m *MailboxRecord) error {
	ref := m.Ref()
	if !m.Deleted {
		k := NameKey(ref.Account, m.Name)
		if _, taken, err := a.r.Get(k); err != nil {
			return err
		} else if taken {
			return storage.Errorf(storage.ErrExists, "name mailbox %016x %q: another mailbox has that name", m.Id, m.Name)
		}
		a.r.Set(k, be.AppendUint64(nil, m.Id))
	}
	st, err := a.statsOf(ref)
	if err != nil {
		return err
	}
	st.HighestModseq = max(st.HighestModseq, m.Changed)
	var old MailboxRecord
	found, err := Load(a.r, MailboxKey(ref), &old)
	if err != nil {
		return err
	}
	if found && old.Deleted != m.Deleted {
		delta := st.Bytes
		if m.Deleted {
			delta = -delta
		}
		if err := a.use(ref.Account, delta); err != nil {
			return err
		}
	}
	Store(a.r, MailboxKey(ref), m)
	return nil
}

func (a *applier) message(m *MessageRecord) error {
	ref, uid := m.Ref(), storage.UID(m.Uid)
	st, err := a.statsOf(ref)
	if err != nil {
		return err
	}
	if err := a.forget(st, ref, uid); err != nil {
		return err
	}
	a.name(m.Body(), 1)
	if len(m.Summary) > 0 {
		a.r.Set(SummaryKey(ref, uid), m.Summary)
		bare := proto.CloneOf(m)
		bare.Summary = nil
		m = bare
	}
	a.r.Delete(ExpungedKey(ref, uid))
	Store(a.r, MessageKey(ref, uid), m)
	a.r.Set(ChangedKey(ref, storage.ModSeq(m.Modseq), uid), nil)
	st.count(m, 1)
	st.HighestModseq = max(st.HighestModseq, m.Modseq)
	return a.use(ref.Account, m.Size)
}

func (a *applier) expunged(x *ExpungedRecord) error {
	m := x.Message
	ref, uid := m.Ref(), storage.UID(m.Uid)
	st, err := a.statsOf(ref)
	if err != nil {
		return err
	}
	if err := a.forget(st, ref, uid); err != nil {
		return err
	}
	a.name(m.Body(), 1)
	Store(a.r, ExpungedKey(ref, uid), x)
	a.r.Set(ChangedKey(ref, storage.ModSeq(m.Modseq), uid), nil)
	st.HighestModseq = max(st.HighestModseq, m.Modseq)
	return nil
}

// forget takes what the index holds of a UID, live or expunged, out of the
// message records, the change index, the counters and the body's references.
func (a *applier) forget(st *MailboxStats, ref storage.Ref, uid storage.UID) error {
	var old MessageRecord
	found, err := Load(a.r, MessageKey(ref, uid), &old)
	if err != nil {
		return err
	}
	if found {
		st.count(&old, -1)
		a.r.Delete(ChangedKey(ref, storage.ModSeq(old.Modseq), uid))
		a.r.Delete(MessageKey(ref, uid))
		a.name(old.Body(), -1)
		return a.use(ref.Account, -old.Size)
	}
	var gone ExpungedRecord
	if found, err = Load(a.r, ExpungedKey(ref, uid), &gone); err != nil || !found {
		return err
	}
	a.r.Delete(ChangedKey(ref, storage.ModSeq(gone.Message.GetModseq()), uid))
	a.name(gone.Message.Body(), -1)
	return nil
}

// use adds to an account's bytes; messages of deleted mailboxes are counted by
// mailbox() when it is deleted, and not again when they are freed.
func (a *applier) use(id storage.AccountID, bytes int64) error {
	if bytes == 0 {
		return nil
	}
	var u AccountStats
	switch _, err := Load(a.r, UsageKey(id), &u); {
	case errors.Is(err, storage.ErrCorrupt):
		return nil // it is derived and in no digest: a broken counter never blocks mail
	case err != nil:
		return err
	}
	u.Bytes += bytes
	Store(a.r, UsageKey(id), &u)
	return nil
}

func (a *applier) statsOf(ref storage.Ref) (*MailboxStats, error) {
	if st, touched := a.stats[ref]; st != nil {
		return st, nil
	} else if touched {
		return nil, storage.Errorf(storage.ErrCorrupt, "apply event %s: mailbox %016x is freed and used", slot.Position(a.ev.Position), uint64(ref.Mailbox))
	}
	st := &MailboxStats{}
	if _, err := Load(a.r, StatsKey(ref), st); err != nil {
		return nil, err
	}
	a.stats[ref] = st
	a.order = append(a.order, ref)
	return st, nil
}

// finish stores the counters and settles the digests.
func (a *applier) finish() error {
	if err := a.settleRefs(); err != nil {
		return err
	}
	got := make([]*MailboxDigest, 0, len(a.order))
	for _, ref := range a.order {
		st := a.stats[ref]
		if st == nil { // the mailbox is gone for good
			got = append(got, &MailboxDigest{Account: uint64(ref.Account), Mailbox: uint64(ref.Mailbox), Digest: Digest{}.Bytes()})
			continue
		}
		Store(a.r, StatsKey(ref), st)
		var m MailboxRecord
		if found, err := Load(a.r, MailboxKey(ref), &m); err != nil {
			return err
		} else if !found {
			return storage.Errorf(storage.ErrCorrupt, "apply event %s: mailbox %016x of account %016x is not known",
				slot.Position(a.ev.Position), uint64(ref.Mailbox), uint64(ref.Account))
		}
		d := ParseDigest(st.Digest).Add(DigestMailbox(&m))
		got = append(got, &MailboxDigest{Account: uint64(ref.Account), Mailbox: uint64(ref.Mailbox), Digest: d.Bytes()})
	}
	if len(a.ev.Digests) == 0 {
		a.ev.Digests = got
		return nil
	}
	if len(got) != len(a.ev.Digests) {
		return storage.Errorf(storage.ErrCorrupt, "apply event %s: it names %d mailboxes and touches %d",
			slot.Position(a.ev.Position), len(a.ev.Digests), len(got))
	}
	for i, want := range a.ev.Digests {
		if !proto.Equal(want, got[i]) {
			return storage.Errorf(storage.ErrCorrupt, "apply event %s: digest of mailbox %016x of account %016x is %x, the master has %x",
				slot.Position(a.ev.Position), want.Mailbox, want.Account, got[i].Digest, want.Digest)
		}
	}
	return nil
}

func (st *MailboxStats) count(m *MessageRecord, n int) {
	st.Messages += uint32(n)
	st.Bytes += int64(n) * m.Size
	if storage.SystemFlags(m.SystemFlags)&storage.Seen == 0 {
		st.Unseen += uint32(n)
	}
	if storage.SystemFlags(m.SystemFlags)&storage.Deleted != 0 {
		st.Deleted += uint32(n)
	}
	d := ParseDigest(st.Digest)
	if n > 0 {
		d = d.Add(DigestMessage(m))
	} else {
		d = d.Sub(DigestMessage(m))
	}
	st.Digest = d.Bytes()
}
