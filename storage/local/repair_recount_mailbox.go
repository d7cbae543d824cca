package local

import (
	"errors"
	"slices"

	"mailnode/storage"
	"mailnode/storage/blob"
	"mailnode/storage/event"
	"mailnode/storage/mime"
)

// summaryFits reports whether a summary can be a message's. One of another message of
// the same size is not noticed: that would take reading every body.
func summaryFits(value []byte, m *event.MessageRecord) bool {
	s, err := mime.ParseSummary(value)
	return err == nil && s.Size() == m.Size
}

// fixMissing enters what the change index lacks. A message that has another MODSEQ by
// now was entered by the event that gave it.
func (p *pass) fixMissing() error {
	for chunk := range slices.Chunk(p.missing, storage.MaxTxnRecords) {
		var done []changed
		if err := p.r.step(func(t *txn) error {
			done = done[:0]
			for _, e := range chunk {
				if now, err := modseqOf(t, p.ref, e.uid); err != nil {
					return err
				} else if now == e.modseq {
					done = append(done, e)
				}
			}
			for _, e := range done {
				if err := t.b.Set(event.ChangedKey(p.ref, e.modseq, e.uid), nil, nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		for _, e := range done {
			p.r.wrong("%s uid %d: the change index did not have it", p.about, e.uid)
		}
	}
	return nil
}

// fixExtra removes entries of the change index, and envelopes, that no message has.
func (p *pass) fixExtra() error {
	for chunk := range slices.Chunk(p.extra, storage.MaxTxnRecords) {
		var done [][]byte
		if err := p.r.step(func(t *txn) error {
			done = done[:0]
			for _, k := range chunk {
				held, err := p.holds(t, k)
				if err != nil {
					return err
				}
				if !held {
					done = append(done, k)
				}
			}
			for _, k := range done {
				if err := t.b.Delete(k, nil); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
		for _, k := range done {
			what := "an envelope that no message has"
			if k[0] == event.PrefixChanged {
				what = "an entry of the change index that no message has"
			}
			p.r.wrong("%s uid %d: %s", p.about, event.UIDOf(k), what)
		}
	}
	return nil
}

// holds reports whether a key of the change index, or of an envelope, is a message's
// now.
func (p *pass) holds(t *txn, k []byte) (bool, error) {
	if k[0] == event.PrefixChanged {
		if len(k) != changedKeyBytes {
			return false, nil
		}
		now, err := modseqOf(t, p.ref, event.UIDOf(k))
		return now != 0 && now == storage.ModSeq(be.Uint64(k[mailboxKeyBytes:])), err
	}
	if len(k) != messageKeyBytes {
		return false, nil
	}
	m, _, err := messageOf(t, p.ref, event.UIDOf(k))
	return m != nil, err
}

// fixSummaries makes envelopes from bodies, outside of the committer, and stores those
// whose message is still there (LAWS §4.13).
func (p *pass) fixSummaries() error {
	for chunk := range slices.Chunk(p.summaries, 100) {
		made := map[storage.UID][]byte{}
		for _, uid := range chunk {
			summary, err := p.summaryOf(uid)
			if err != nil {
				return err
			}
			if summary != nil {
				made[uid] = summary
			}
		}
		if err := p.r.step(func(t *txn) error {
			for uid, summary := range made {
				if m, _, err := messageOf(t, p.ref, uid); err != nil {
					return err
				} else if m == nil || !summaryFits(summary, m) {
					delete(made, uid)
				}
			}
			for uid, summary := range made {
				if err := t.b.Set(event.SummaryKey(p.ref, uid), summary, nil); err != nil {
					return err
				}
			}
			t.touched[p.ref] = struct{}{}
			return nil
		}); err != nil {
			return err
		}
		for _, uid := range chunk {
			if made[uid] != nil {
				p.r.wrong("%s uid %d: its envelope was missing or damaged, and is made from its body", p.about, uid)
			}
		}
	}
	return nil
}

// summaryOf makes an envelope; nil when there is no body to make it from. Of an
// expunged message that is no finding: its body may be gone everywhere.
func (p *pass) summaryOf(uid storage.UID) ([]byte, error) {
	var m *event.MessageRecord
	var live bool
	var loc blob.Location
	err := p.r.s.read(func(v *view) (err error) {
		if m, live, err = messageOf(v, p.ref, uid); err == nil && m != nil {
			loc, err = p.r.s.locate(v, m.Body())
		}
		return err
	})
	if err == nil && m != nil {
		if err := p.r.spend(int(m.Size)); err != nil {
			return nil, err
		}
		var summary []byte
		if summary, err = scanOpened(p.r.s.openAt(m.Body(), loc)); err == nil {
			return summary, nil
		}
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrCorrupt) && !errors.Is(err, blob.ErrDamaged) {
		return nil, err
	}
	if err != nil && live {
		p.r.unreadable("%s uid %d: its envelope cannot be made: %v", p.about, uid, err)
	}
	return nil, nil
}

// scanBody makes a message's summary from its body.
func (s *Slot) scanBody(m *event.MessageRecord, loc blob.Location) ([]byte, error) {
	return scanOpened(s.packs.Open(m.Body(), loc))
}

func scanOpened(b *blob.Body, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return summarizeBytes(b, b.Size())
}
