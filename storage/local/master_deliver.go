package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/disk"
	"mailnode/storage/event"
	"mailnode/storage/mime"
	"mailnode/storage/slot"
)

// deliverRecipientsMax is how many recipients one event carries: few enough that nobody
// notices to have waited for it.
const deliverRecipientsMax = 100

// Deliver implements storage.Messages. Recipients of the same account get one message.
func (m *Master) Deliver(ctx context.Context, d storage.Delivery) []error {
	errs := make([]error, len(d.Recipients))
	all := func(err error) []error {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	if err := m.live(); err != nil {
		return all(err)
	}
	d, err := d.Canonical(m.s.o.Clock.Wall(), errs)
	if err != nil {
		return all(err)
	}
	summary, err := summarize(d.Body)
	if err != nil {
		return all(err)
	}
	births, err := m.births(ctx, d, errs)
	if err != nil {
		return all(err)
	}
	if len(births) == 0 {
		return errs
	}
	ref := slot.BodyRef{GUID: d.Body.GUID(), ID: slot.BodyID(randomID())}
	if err := m.putBody(ref, births, d.Body); err != nil {
		return all(err)
	}
	defer m.s.onStage.abandon(ref)
	base := &event.MessageRecord{InternalDateUnix: d.InternalDate.Unix(), Size: d.Body.Size(), Guid: ref.GUID[:], BodyId: uint64(ref.ID),
		SavedUnix: m.s.o.Clock.Wall().Unix(), Summary: summary}
	got, q := map[storage.AccountID]bool{}, quotaCounts{}
	for lo := 0; lo < len(d.Recipients); lo += deliverRecipientsMax {
		hi := min(lo+deliverRecipientsMax, len(d.Recipients))
		rcpts, errs := d.Recipients[lo:hi], errs[lo:hi]
		if m.deliverSome(ctx, base, q, rcpts, errs, got); m.countQuotas(ctx, q, rcpts, errs) {
			m.deliverSome(ctx, base, q, rcpts, errs, got)
		}
	}
	return errs
}

// countQuotas counts the recipients that must be counted first, and reports whether
// one is to be tried again: its error is nil then.
func (m *Master) countQuotas(ctx context.Context, q quotaCounts, rcpts []storage.Recipient, errs []error) (again bool) {
	for i, r := range rcpts {
		if errors.Is(errs[i], errUncounted) {
			errs[i] = m.countQuota(ctx, q, r.Account)
			again = again || errs[i] == nil
		}
	}
	return again
}

// deliverSome makes one event of recipients whose errs are nil and who have not
// got the message. When a damaged record makes the event fail, it tries again with each
// half of them: the damage is its owner's trouble alone (law 9).
func (m *Master) deliverSome(ctx context.Context, base *event.MessageRecord, q quotaCounts, rcpts []storage.Recipient, errs []error, got map[storage.AccountID]bool) {
	done := map[storage.AccountID]bool{}
	var refused error
	var accounts []storage.AccountID
	for i, r := range rcpts {
		if errs[i] == nil && !got[r.Account] {
			accounts = append(accounts, r.Account)
		}
	}
	err := m.growing(ctx, func(t *txn) error {
		var changes []*event.Change
		for i, r := range rcpts {
			if errs[i] != nil || got[r.Account] || done[r.Account] {
				continue
			}
			more, err := m.deliverOne(t, base, q, r.Account)
			if err != nil {
				errs[i] = err
				continue
			}
			done[r.Account] = true
			changes = append(changes, more...)
		}
		if len(changes) == 0 {
			return nil
		}
		refused = m.emit(t, changes...)
		return refused
	}, accounts...)
	if half := len(rcpts) / 2; half > 0 && errors.Is(refused, storage.ErrCorrupt) {
		m.deliverSome(ctx, base, q, rcpts[:half], errs[:half], got)
		m.deliverSome(ctx, base, q, rcpts[half:], errs[half:], got)
		return
	}
	if err == nil {
		maps.Copy(got, done)
	}
	for i, r := range rcpts {
		if errs[i] == nil && !got[r.Account] {
			errs[i] = err
		}
	}
}

func (m *Master) deliverOne(t *txn, base *event.MessageRecord, q quotaCounts, id storage.AccountID) ([]*event.Change, error) {
	a, err := loadAccount(t, id)
	if err != nil {
		return nil, err
	}
	if err := q.check(t, a, base.Size); err != nil {
		return nil, err
	}
	b, err := mailboxByName(t, id, "INBOX")
	if err != nil {
		return nil, err
	}
	uid, changes, err := m.takeUIDs(t, a, b, 1)
	if err != nil {
		return nil, err
	}
	return append(changes, messageChange(m.born(t, base, a, b, uid))), nil
}

// born makes the record of a message that comes into a mailbox.
func (m *Master) born(t *txn, base *event.MessageRecord, a *event.AccountRecord, b *event.MailboxRecord, uid storage.UID) *event.MessageRecord {
	return &event.MessageRecord{Account: a.Id, Mailbox: b.Id, Uid: uint32(uid), Modseq: m.modSeq(t, a),
		SystemFlags: base.SystemFlags, Keywords: base.Keywords, InternalDateUnix: base.InternalDateUnix, Size: base.Size,
		Guid: base.Guid, BodyId: base.BodyId, SavedUnix: base.SavedUnix, Summary: base.Summary}
}

// births looks up where a delivery goes, before a byte is written. It sets the errors
// of recipients that cannot get it.
func (m *Master) births(ctx context.Context, d storage.Delivery, errs []error) ([]*blob.Birth, error) {
	var out []*blob.Birth
	err := m.view(ctx, func(v *view) error {
		for i, r := range d.Recipients {
			if errs[i] != nil {
				continue
			}
			a, err := loadAccount(v, r.Account)
			if err == nil {
				err = checkQuota(v, a, d.Body.Size())
			}
			var b *event.MailboxRecord
			if err == nil {
				b, err = mailboxByName(v, r.Account, "INBOX")
			}
			if err != nil {
				errs[i] = err
				continue
			}
			out = append(out, &blob.Birth{Account: uint64(r.Account), Address: string(r.Address), Mailbox: b.Id, MailboxName: b.Name,
				InternalDateUnix: d.InternalDate.Unix()})
		}
		return nil
	})
	return out, err
}

// putBody puts a body into the packs and shows it to the replicas, which may
// take it before its event exists.
func (m *Master) putBody(ref slot.BodyRef, births []*blob.Birth, body storage.Body) error {
	if err := m.s.stage(ref, disk.Grow, &blob.BirthNote{Births: births}, body, body.Size()); err != nil {
		return err
	}
	m.s.watch.bodies.announce(ref)
	return nil
}

func summarize(body storage.Body) ([]byte, error) { return summarizeBytes(body, body.Size()) }

func summarizeBytes(body io.ReaderAt, size int64) ([]byte, error) {
	msg, err := mime.Scan(io.NewSectionReader(body, 0, size))
	if err != nil {
		return nil, fmt.Errorf("scan message: %w", err)
	}
	s := msg.Summary()
	return s.Append(nil), nil
}

// Append implements storage.Messages.
func (m *Master) Append(ctx context.Context, id storage.AccountID, r storage.Append) (storage.Appended, error) {
	var out storage.Appended
	if err := m.live(); err != nil {
		return out, err
	}
	r, err := r.Canonical(m.s.o.Clock.Wall())
	if err != nil {
		return out, err
	}
	summary, err := summarize(r.Body)
	if err != nil {
		return out, err
	}
	var birth *blob.Birth
	err = m.view(ctx, func(v *view) error {
		a, err := loadAccount(v, id)
		if err != nil {
			return err
		}
		if err := checkQuota(v, a, r.Body.Size()); err != nil {
			return err
		}
		b, err := mailboxByName(v, id, r.Mailbox)
		if err != nil {
			return err
		}
		birth = &blob.Birth{Account: a.Id, Address: a.Address, Mailbox: b.Id, MailboxName: b.Name,
			InternalDateUnix: r.InternalDate.Unix(), SystemFlags: uint32(r.Flags.System), Keywords: r.Flags.Keywords}
		return nil
	})
	if err != nil {
		return out, err
	}
	ref := slot.BodyRef{GUID: r.Body.GUID(), ID: slot.BodyID(randomID())}
	if err := m.putBody(ref, []*blob.Birth{birth}, r.Body); err != nil {
		return out, err
	}
	defer m.s.onStage.abandon(ref)
	base := &event.MessageRecord{SystemFlags: uint32(r.Flags.System), Keywords: r.Flags.Keywords, InternalDateUnix: r.InternalDate.Unix(),
		Size: r.Body.Size(), Guid: ref.GUID[:], BodyId: uint64(ref.ID), SavedUnix: m.s.o.Clock.Wall().Unix(), Summary: summary}
	err = m.withinQuota(ctx, id, func(q quotaCounts) error {
		return m.growing(ctx, func(t *txn) error {
			a, err := loadAccount(t, id)
			if err != nil {
				return err
			}
			b, err := mailboxByName(t, id, r.Mailbox)
			if err != nil {
				return err
			}
			if err := q.check(t, a, base.Size); err != nil {
				return err
			}
			uid, changes, err := m.takeUIDs(t, a, b, 1)
			if err != nil {
				return err
			}
			out = storage.Appended{UIDValidity: storage.UIDValidity(b.Uidvalidity), UID: uid}
			return m.emit(t, append(changes, messageChange(m.born(t, base, a, b, uid)))...)
		}, id)
	})
	return out, err
}
