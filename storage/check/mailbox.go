package check

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/proto"

	"mailnode/storage"
	"mailnode/storage/event"
	"mailnode/storage/mime"
	"mailnode/storage/slot"
)

// mailbox is one mailbox, as far as it has been read.
type mailbox struct {
	c       *checker
	rec     *event.MailboxRecord
	address slot.Address
	sum     event.MailboxStats // what the records add up to
	digest  event.Digest
	changed map[string]bool // keys of the change index that must be there
}

func (m *mailbox) finding(law int, uid storage.UID, format string, args ...any) {
	m.c.add(Finding{Law: law, Account: m.address, Mailbox: m.rec.Name, UID: uid, Text: fmt.Sprintf(format, args...)})
}

func (m *mailbox) check() error {
	m.changed = map[string]bool{}
	m.sum.HighestModseq = m.rec.Changed
	for _, step := range []func() error{m.messages, m.expunged, m.index, m.stats} {
		if err := step(); err != nil {
			return err
		}
	}
	if !m.rec.Deleted {
		m.c.used[storage.AccountID(m.rec.Account)] += m.sum.Bytes
	}
	return nil
}

// limitModSeq is the highest MODSEQ that any event up to the head can have given.
func (m *mailbox) limitModSeq() uint64 {
	base := uint64(0)
	if a := m.c.accounts[storage.AccountID(m.rec.Account)]; a != nil {
		base = a.ModseqBase
	}
	return m.c.head.Position + base
}

func (m *mailbox) messages() error {
	ref := m.rec.Ref()
	return each(m.c, event.MessagesIn(ref, 0, ^storage.UID(0)), func(k []byte, r *event.MessageRecord) error {
		uid := storage.UID(r.Uid)
		m.common(k, r)
		m.sum.Messages++
		m.sum.Bytes += r.Size
		if storage.SystemFlags(r.SystemFlags)&storage.Seen == 0 {
			m.sum.Unseen++
		}
		if storage.SystemFlags(r.SystemFlags)&storage.Deleted != 0 {
			m.sum.Deleted++
		}
		m.digest = m.digest.Add(event.DigestMessage(r))
		summary, found, err := m.c.s.Get(event.SummaryKey(ref, uid))
		if err != nil {
			return err
		}
		if !found {
			m.finding(8, uid, "its envelope is missing")
		} else if s, err := mime.ParseSummary(summary); err != nil || s.Size() != r.Size {
			m.finding(6, uid, "its envelope is damaged or of another message")
		}
		if m.c.o.Bodies {
			if err := m.c.s.ProveBody(r.Body()); err != nil {
				m.finding(1, uid, "its body: %v", err)
			}
		}
		return nil
	})
}

// common checks what holds for live and expunged messages.
func (m *mailbox) common(key []byte, r *event.MessageRecord) {
	uid := storage.UID(r.Uid)
	if event.UIDOf(key) != uid || r.Ref() != m.rec.Ref() {
		m.finding(6, uid, "its record is under another key")
	}
	if r.Uid == 0 || r.Uid >= m.rec.Uidnext {
		m.finding(2, uid, "UIDNEXT is %d", m.rec.Uidnext)
	}
	if r.Modseq == 0 || r.Modseq > m.limitModSeq() {
		m.finding(3, uid, "MODSEQ %d is above the head", r.Modseq)
	}
	m.c.refs[r.Body()]++
	m.sum.HighestModseq = max(m.sum.HighestModseq, r.Modseq)
	m.changed[string(event.ChangedKey(m.rec.Ref(), storage.ModSeq(r.Modseq), uid))] = true
}

func (m *mailbox) expunged() error {
	ref := m.rec.Ref()
	return each(m.c, event.ExpungedIn(ref), func(k []byte, x *event.ExpungedRecord) error {
		if x.Message == nil {
			m.finding(6, event.UIDOf(k), "its tombstone is empty")
			return nil
		}
		m.common(k, x.Message)
		if _, live, err := m.c.s.Get(event.MessageKey(ref, storage.UID(x.Message.Uid))); err != nil {
			return err
		} else if live {
			m.finding(2, storage.UID(x.Message.Uid), "it is live and expunged at once")
		}
		return nil
	})
}

// index checks that the change index has an entry per message, and no other.
func (m *mailbox) index() error {
	err := m.c.s.Each(event.ChangedSince(m.rec.Ref(), 0), func(k, _ []byte) error {
		if !m.changed[string(k)] {
			m.finding(3, event.UIDOf(k), "the change index has an entry that no message has")
		}
		delete(m.changed, string(k))
		return nil
	})
	for k := range m.changed {
		m.finding(3, event.UIDOf([]byte(k)), "the change index does not have it")
	}
	return err
}

func (m *mailbox) stats() error {
	var have event.MailboxStats
	if _, err := m.c.load(event.StatsKey(m.rec.Ref()), &have); err != nil {
		return err
	}
	if d := event.ParseDigest(have.Digest); d != m.digest {
		m.finding(8, 0, "its digest is %s, its messages have %s", d, m.digest)
	}
	if have.HighestModseq < m.sum.HighestModseq {
		m.finding(3, 0, "HIGHESTMODSEQ is %d, a message has %d", have.HighestModseq, m.sum.HighestModseq)
	}
	if have.HighestModseq > m.limitModSeq() {
		m.finding(3, 0, "HIGHESTMODSEQ is %d, above the head", have.HighestModseq)
	}
	m.sum.Digest, m.sum.HighestModseq = have.Digest, have.HighestModseq
	if a, b := event.Marshal(&have), event.Marshal(&m.sum); !bytes.Equal(a, b) && !proto.Equal(&have, &m.sum) {
		m.finding(8, 0, "its counters are %v, its messages make %v", &have, &m.sum)
	}
	return nil
}
