package local

import (
	"errors"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/slot"
)

// The records of a state, as closures and readers load them from a transaction, a
// snapshot or an index that is being filled; and the changes that an event has of
// them. load… returns storage.ErrNotFound for a record that is missing or deleted.

// Lengths of keys, in bytes.
const (
	accountKeyBytes = 9
	mailboxKeyBytes = 17
	messageKeyBytes = 21
	changedKeyBytes = 29
	bodyKeyBytes    = 41
)

// unmarshal decodes a record; one that cannot be read is storage.ErrCorrupt.
func unmarshal(b []byte, into proto.Message) error {
	if err := proto.Unmarshal(b, into); err != nil {
		return storage.Errorf(storage.ErrCorrupt, "read record: %w", err)
	}
	return nil
}

// errEnough ends an each early; stopEarly takes it for no error.
var errEnough = errors.New("enough")

func stopEarly(err error) error {
	if err == errEnough {
		return nil
	}
	return err
}

func loadAccount(r reader, id storage.AccountID) (*event.AccountRecord, error) {
	a := &event.AccountRecord{}
	found, err := event.Load(r, event.AccountKey(id), a)
	if err != nil {
		return nil, err
	}
	if !found || a.Deleted {
		return nil, notHere(id)
	}
	return a, nil
}

// notHere is the error for an account whose ID somebody has: it existed, and was
// deleted or moved since, or this copy lacks it. That does not mean "unknown". The
// error is ErrNotFound and ErrUnavailable at once, so that clients take it for "not
// now" only, and no MTA bounces what was accepted (law 7).
func notHere(id storage.AccountID) error {
	return storage.Errorf(storage.ErrUnavailable, "%w", storage.Errorf(storage.ErrNotFound, "account %016x: not in this slot", uint64(id)))
}

// liveAccount reports whether a record is of an account that is not deleted. One
// that cannot be read is not counted, neither when the copy is opened nor when the
// record changes, so that the count stays right.
func liveAccount(value []byte) bool {
	a := &event.AccountRecord{}
	return value != nil && unmarshal(value, a) == nil && !a.Deleted
}

// holdsAddress reports whether an account's address still leads to it.
func holdsAddress(r reader, a *event.AccountRecord) (bool, error) {
	rec := &event.AddressRecord{}
	found, err := event.Load(r, event.AddressKey(slot.Address(a.Address)), rec)
	return found && !rec.Erased && rec.Account == a.Id, err
}

// deletedAccount returns a deleted account that still holds its address, and the
// record of the address.
func deletedAccount(r reader, addr slot.Address) (*event.AccountRecord, *event.AddressRecord, error) {
	rec := &event.AddressRecord{}
	found, err := event.Load(r, event.AddressKey(addr), rec)
	if err != nil {
		return nil, nil, err
	}
	a := &event.AccountRecord{}
	if found && !rec.Erased {
		if found, err = event.Load(r, event.AccountKey(storage.AccountID(rec.Account)), a); err != nil {
			return nil, nil, err
		}
	}
	switch {
	case !found || rec.Erased:
		return nil, nil, storage.Errorf(storage.ErrNotFound, "account %q: there is none that can be brought back", addr)
	case !a.Deleted:
		return nil, nil, storage.Errorf(storage.ErrInvalid, "account %q is not deleted", addr)
	}
	return a, rec, nil
}

func loadMailbox(r reader, ref storage.Ref) (*event.MailboxRecord, error) {
	b := &event.MailboxRecord{}
	found, err := event.Load(r, event.MailboxKey(ref), b)
	if err != nil {
		return nil, err
	}
	if !found || b.Deleted {
		return nil, storage.Errorf(storage.ErrNotFound, "mailbox does not exist")
	}
	return b, nil
}

// mailboxByName loads a mailbox by a name as a client writes it.
func mailboxByName(r reader, a storage.AccountID, name string) (*event.MailboxRecord, error) {
	canonical, err := storage.CanonicalMailboxName(name)
	if err != nil {
		return nil, err
	}
	id, found, err := mailboxID(r, a, canonical)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, storage.Errorf(storage.ErrNotFound, "mailbox %q does not exist", canonical)
	}
	return loadMailbox(r, storage.Ref{Account: a, Mailbox: id})
}

// mailboxID finds a mailbox by its canonical name, in the name index.
func mailboxID(r reader, a storage.AccountID, name string) (storage.MailboxID, bool, error) {
	v, found, err := r.Get(event.NameKey(a, name))
	if err != nil || !found {
		return 0, false, err
	}
	if len(v) != 8 {
		return 0, false, storage.Errorf(storage.ErrCorrupt, "read name %q: %d bytes", name, len(v))
	}
	return storage.MailboxID(be.Uint64(v)), true, nil
}

// namesBelow returns the mailbox with a canonical name, if there is one, and all
// mailboxes below it.
func namesBelow(r reader, id storage.AccountID, name string) ([]*event.MailboxRecord, error) {
	var out []*event.MailboxRecord
	if _, exists, err := mailboxID(r, id, name); err != nil {
		return nil, err
	} else if exists {
		b, err := mailboxByName(r, id, name)
		if err != nil {
			return nil, err
		}
		out = append(out, b)
	}
	err := each(r, event.NamesOf(id, name+"/"), func(_, value []byte) error {
		if len(value) != 8 {
			return storage.Errorf(storage.ErrCorrupt, "read name below %q: %d bytes", name, len(value))
		}
		b, err := loadMailbox(r, storage.Ref{Account: id, Mailbox: storage.MailboxID(be.Uint64(value))})
		out = append(out, b)
		return err
	})
	return out, err
}

// in loads a mailbox and its account.
func in(r reader, ref storage.Ref) (*event.AccountRecord, *event.MailboxRecord, error) {
	a, err := loadAccount(r, ref.Account)
	if err != nil {
		return nil, nil, err
	}
	b, err := loadMailbox(r, ref)
	return a, b, err
}

func loadMessage(r reader, ref storage.Ref, uid storage.UID) (*event.MessageRecord, error) {
	rec := &event.MessageRecord{}
	found, err := event.Load(r, event.MessageKey(ref, uid), rec)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, storage.Errorf(storage.ErrNotFound, "message with UID %d does not exist", uid)
	}
	return rec, nil
}

// existing loads the live messages among uids.
func existing(r reader, ref storage.Ref, uids []storage.UID) ([]*event.MessageRecord, error) {
	out := make([]*event.MessageRecord, 0, len(uids))
	for _, u := range uids {
		rec, err := loadMessage(r, ref, u)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, rec)
	}
	return out, nil
}

// messageOf returns a live or expunged message as it is now; nil when the UID is
// neither, or its record cannot be read: for code that mends, which goes on.
func messageOf(r reader, ref storage.Ref, uid storage.UID) (m *event.MessageRecord, live bool, err error) {
	m = &event.MessageRecord{}
	found, err := event.Load(r, event.MessageKey(ref, uid), m)
	if found && err == nil {
		return m, true, nil
	}
	if err != nil && !errors.Is(err, storage.ErrCorrupt) {
		return nil, false, err
	}
	x := &event.ExpungedRecord{}
	if found, err = event.Load(r, event.ExpungedKey(ref, uid), x); errors.Is(err, storage.ErrCorrupt) {
		return nil, false, nil
	}
	if err != nil || !found || x.Message == nil {
		return nil, false, err
	}
	return x.Message, false, nil
}

// modseqOf returns the MODSEQ that a UID has now, live or expunged; 0: neither.
func modseqOf(r reader, ref storage.Ref, uid storage.UID) (storage.ModSeq, error) {
	m, _, err := messageOf(r, ref, uid)
	if m == nil {
		return 0, err
	}
	return storage.ModSeq(m.Modseq), nil
}

// eachMissing calls fn for the records of missing messages.
func eachMissing(r reader, fn func(*event.MissingRecord) error) error {
	return each(r, event.SpanOf([]byte{event.PrefixMissing}), func(_, value []byte) error {
		x := &event.MissingRecord{}
		if err := unmarshal(value, x); err != nil {
			return err
		}
		return fn(x)
	})
}

// eachNaming calls fn for every record that names a body: live messages,
// tombstones and missing messages, in this order; prefix tells which. m is nil when
// the record is empty; err is set when it cannot be read.
func eachNaming(r reader, fn func(prefix byte, m *event.MessageRecord, valueBytes int, err error) error) error {
	decode := map[byte]func(value []byte) (*event.MessageRecord, error){
		event.PrefixMessage: func(value []byte) (*event.MessageRecord, error) {
			m := &event.MessageRecord{}
			return m, unmarshal(value, m)
		},
		event.PrefixExpunged: func(value []byte) (*event.MessageRecord, error) {
			x := &event.ExpungedRecord{}
			err := unmarshal(value, x)
			return x.Message, err
		},
		event.PrefixMissing: func(value []byte) (*event.MessageRecord, error) {
			x := &event.MissingRecord{}
			err := unmarshal(value, x)
			return x.Message, err
		},
	}
	for _, prefix := range []byte{event.PrefixMessage, event.PrefixExpunged, event.PrefixMissing} {
		if err := each(r, event.SpanOf([]byte{prefix}), func(_, value []byte) error {
			m, err := decode[prefix](value)
			return fn(prefix, m, len(value), err)
		}); err != nil {
			return err
		}
	}
	return nil
}

// The changes of an event. Each carries the record as it is after the event.

func accountChange(a *event.AccountRecord) *event.Change {
	return &event.Change{Record: &event.Change_Account{Account: a}}
}

func addressChange(x *event.AddressRecord) *event.Change {
	return &event.Change{Record: &event.Change_Address{Address: x}}
}

func mailboxChange(b *event.MailboxRecord) *event.Change {
	return &event.Change{Record: &event.Change_Mailbox{Mailbox: b}}
}

func subscriptionChange(account uint64, name string, on bool) *event.Change {
	return &event.Change{Record: &event.Change_Subscription{Subscription: &event.SubscriptionRecord{Account: account, Name: name, Removed: !on}}}
}

func messageChange(r *event.MessageRecord) *event.Change {
	return &event.Change{Record: &event.Change_Message{Message: r}}
}

func expungedChange(x *event.ExpungedRecord) *event.Change {
	return &event.Change{Record: &event.Change_Expunged{Expunged: x}}
}

func slotChange(r *event.SlotRecord) *event.Change {
	return &event.Change{Record: &event.Change_Slot{Slot: r}}
}

func missingChange(x *event.MissingRecord) *event.Change {
	return &event.Change{Record: &event.Change_Missing{Missing: x}}
}

func freedChange(x *event.FreedRecord) *event.Change {
	return &event.Change{Record: &event.Change_Freed{Freed: x}}
}
