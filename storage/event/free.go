package event

import (
	"encoding/binary"

	"mailnode/storage"
	"mailnode/storage/slot"
)

// freed forgets tombstones, or what a deleted mailbox or account has. Mail that
// a client can still see is never forgotten: such an event is refused.
func (a *applier) freed(x *FreedRecord) error {
	ref := storage.Ref{Account: storage.AccountID(x.Account), Mailbox: storage.MailboxID(x.Mailbox)}
	if ref.Mailbox == 0 {
		return a.freedAccount(ref.Account)
	}
	var box MailboxRecord
	found, err := Load(a.r, MailboxKey(ref), &box)
	if err != nil {
		return err
	}
	if !found { // applied before
		if _, touched := a.stats[ref]; !touched {
			a.order = append(a.order, ref)
		}
		a.stats[ref] = nil
		return nil
	}
	if x.Whole && !box.Deleted {
		return storage.Errorf(storage.ErrInvalid, "free mailbox %q: it is not deleted", box.Name)
	}
	st, err := a.statsOf(ref)
	if err != nil {
		return err
	}
	for _, u := range x.Uids {
		if err := a.freedMessage(st, &box, storage.UID(u)); err != nil {
			return err
		}
	}
	if !x.Whole {
		return nil
	}
	if st.Messages != 0 {
		return storage.Errorf(storage.ErrInvalid, "free mailbox %q: %d messages are left in it", box.Name, st.Messages)
	}
	a.r.Delete(MailboxKey(ref))
	a.r.Delete(StatsKey(ref))
	a.stats[ref] = nil
	return nil
}

func (a *applier) freedMessage(st *MailboxStats, box *MailboxRecord, uid storage.UID) error {
	ref := box.Ref()
	var live MessageRecord
	found, err := Load(a.r, MessageKey(ref, uid), &live)
	if err != nil {
		return err
	}
	switch {
	case found && !box.Deleted:
		return storage.Errorf(storage.ErrInvalid, "free UID %d of mailbox %q: it is not expunged", uid, box.Name)
	case found:
		st.count(&live, -1)
		a.r.Delete(ChangedKey(ref, storage.ModSeq(live.Modseq), uid))
		a.r.Delete(MessageKey(ref, uid))
		a.r.Delete(SummaryKey(ref, uid))
		a.name(live.Body(), -1)
		return nil
	}
	var gone ExpungedRecord
	if found, err = Load(a.r, ExpungedKey(ref, uid), &gone); err != nil || !found {
		return err
	}
	a.r.Delete(ChangedKey(ref, storage.ModSeq(gone.Message.GetModseq()), uid))
	a.r.Delete(ExpungedKey(ref, uid))
	a.r.Delete(SummaryKey(ref, uid))
	a.name(gone.Message.Body(), -1)
	return nil
}

func (a *applier) freedAccount(id storage.AccountID) error {
	var acc AccountRecord
	found, err := Load(a.r, AccountKey(id), &acc)
	if err != nil || !found {
		return err
	}
	if !acc.Deleted {
		return storage.Errorf(storage.ErrInvalid, "free account %q: it is not deleted", acc.Address)
	}
	a.r.Delete(AccountKey(id))
	a.r.Delete(UsageKey(id))
	return nil
}

// missing notes a message whose body no copy has, or takes the note away. The
// note names the body: a copy that was away and still has it keeps it, however
// long ago the message was given up (law 7).
func (a *applier) missing(x *MissingRecord) error {
	key := MissingKey(x.Message.Ref(), storage.UID(x.Message.Uid))
	var old MissingRecord
	found, err := Load(a.r, key, &old)
	if err != nil {
		return err
	}
	if found {
		a.name(old.Message.Body(), -1)
	}
	if x.Found {
		a.r.Delete(key)
		return nil
	}
	a.name(x.Message.Body(), 1)
	Store(a.r, key, x)
	return nil
}

// settleRefs writes the counts of references. A body that nothing names any
// more loses its count: whoever keeps bodies may then drop it.
func (a *applier) settleRefs() error {
	for _, b := range a.named {
		delta := a.refs[b]
		if delta == 0 {
			continue
		}
		key := RefsKey(b)
		v, _, err := a.r.Get(key)
		if err != nil {
			return err
		}
		have, err := ParseRefs(b, v)
		if err != nil {
			return err
		}
		switch n := int64(have) + int64(delta); {
		case n > 0:
			a.r.Set(key, binary.AppendUvarint(nil, uint64(n)))
		case n == 0:
			a.r.Delete(key)
		default:
			return storage.Errorf(storage.ErrCorrupt, "apply event %s: body %s has %d references, the event takes %d away",
				slot.Position(a.ev.Position), b, have, -delta)
		}
	}
	return nil
}

// ParseRefs reads a body's count of references; no bytes are 0.
func ParseRefs(b slot.BodyRef, v []byte) (uint64, error) {
	if len(v) == 0 {
		return 0, nil
	}
	n, size := binary.Uvarint(v)
	if size != len(v) || n == 0 {
		return 0, storage.Errorf(storage.ErrCorrupt, "read references of body %s: %x", b, v)
	}
	return n, nil
}
